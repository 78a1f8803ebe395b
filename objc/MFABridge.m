#import "MFABridge.h"

#include <math.h>

#import "MFACall.h"
#import "MFAForwardRecord.h"
#import "MFAMemory.h"

NSString *const MFAErrorDomain = @"MFAErrorDomain";

MFADimensions MFADimensionsMake(NSUInteger batch, NSUInteger heads, NSUInteger seqLengthQ, NSUInteger seqLengthKV,
                                NSUInteger headDim) {
  MFADimensions dimensions = {batch, heads, seqLengthQ, seqLengthKV, headDim};
  return dimensions;
}

MFAStorage MFAStorageMake(MFAPrecision precision) { return MFAStorageQuantized(precision, 1.0f, 0); }

MFAStorage MFAStorageQuantized(MFAPrecision precision, float scale, int32_t zeroPoint) {
  MFAStorage storage = {precision, NO, scale, zeroPoint};
  return storage;
}

static NSString *text(const char *bytes) {
  NSString *result = bytes == NULL ? nil : [NSString stringWithUTF8String:bytes];
  return result == nil ? @"" : result;
}

static void set_error(NSError **error, int32_t status, NSString *message) {
  if (error == NULL) return;
  NSDictionary *info =
      [NSDictionary dictionaryWithObjectsAndKeys:message, NSLocalizedDescriptionKey, text(mfa_error_string(status)),
                                                 NSLocalizedFailureReasonErrorKey, nil];
  *error = [NSError errorWithDomain:MFAErrorDomain code:status userInfo:info];
}

/* A function of the contract that describes a device by a text. */
typedef int32_t describe_function(uint32_t index, char *bytes, size_t capacity, size_t *length);

/* The text for a device of the driver; nil, and the status, on failure. */
static NSString *description_of(uint32_t index, describe_function *describe, int32_t *status) {
  char bytes[256];
  *status = describe(index, bytes, sizeof bytes, NULL);
  return *status == MFA_SUCCESS ? text(bytes) : nil;
}

/* The index of the driver's device that the system knows by the number of `wanted` or, where the driver's only device
 * is the processor, of that one. Names are for people: two GPUs may have the same. */
static BOOL find_device(id<MTLDevice> wanted, uint32_t *index, NSError **error) {
  NSMutableArray *names = [NSMutableArray array];
  uint32_t count = 0;
  int32_t status = mfa_device_count(&count);
  for (uint32_t i = 0; status == MFA_SUCCESS && i < count; i++) {
    NSString *name = description_of(i, mfa_device_name, &status);
    if (name == nil) break;
    [names addObject:name];
    *index = i;
    uint64_t number = 0;
    status = mfa_device_registry_id(i, &number);
    if (status == MFA_SUCCESS && number == [wanted registryID]) return YES;
    if (status == MFA_ERROR_UNSUPPORTED) status = MFA_SUCCESS;
  }
  if (status == MFA_SUCCESS && count == 1) {
    if ([description_of(0, mfa_device_backend, &status) isEqualToString:@"cpu"]) return YES;
  }
  if (status != MFA_SUCCESS) {
    set_error(error, status, text(mfa_last_error(NULL)));
    return NO;
  }
  set_error(error, MFA_ERROR_UNSUPPORTED,
            [NSString stringWithFormat:@"the driver has no device %@ of registry id %llu; expected one of: %@",
                                       [wanted name], (unsigned long long)[wanted registryID],
                                       [names componentsJoinedByString:@", "]]);
  return NO;
}

@implementation MFABridge

@synthesize deviceName = _deviceName;
@synthesize deviceKind = _deviceKind;
@synthesize deviceVendor = _deviceVendor;
@synthesize deviceBackend = _deviceBackend;

- (instancetype)init {
  return [self initWithDevice:nil error:NULL];
}

- (instancetype)initWithDevice:(id<MTLDevice>)device {
  return [self initWithDevice:device error:NULL];
}

- (instancetype)initWithDevice:(id<MTLDevice>)device error:(NSError **)error {
  self = [super init];
  if (self == nil) return nil;
  uint32_t index = 0;
  if (device == nil) {
    set_error(error, MFA_ERROR_INVALID_ARGUMENT,
              @"device is nil; expected what MTLCreateSystemDefaultDevice() returns");
  }
  if (device == nil || !find_device(device, &index, error)) {
    MFA_RELEASE(self);
    return nil;
  }
  int32_t status = [self describe:index];
  if (status == MFA_SUCCESS) status = mfa_create_context_on(index, &_context);
  if (status != MFA_SUCCESS) {
    set_error(error, status, text(mfa_last_error(NULL)));
    MFA_RELEASE(self);
    return nil;
  }
  _device = MFA_RETAIN(device);
  return self;
}

/* Asks the driver what its device is. */
- (int32_t)describe:(uint32_t)index {
  int32_t kind = 0;
  int32_t status = mfa_device_kind(index, &kind);
  _deviceKind = kind;
  if (status == MFA_SUCCESS) _deviceName = MFA_RETAIN(description_of(index, mfa_device_name, &status));
  if (status == MFA_SUCCESS) _deviceVendor = MFA_RETAIN(description_of(index, mfa_device_vendor, &status));
  if (status == MFA_SUCCESS) _deviceBackend = MFA_RETAIN(description_of(index, mfa_device_backend, &status));
  return status;
}

- (void)dealloc {
  mfa_destroy_context(_context);
  MFA_RELEASE(_device);
  MFA_RELEASE(_deviceName);
  MFA_RELEASE(_deviceVendor);
  MFA_RELEASE(_deviceBackend);
  MFA_DEALLOC();
}

/* --------------------------------------------------------------------------------------------------- results ---- */

- (BOOL)succeeded:(int32_t)status error:(NSError **)error {
  if (status == MFA_SUCCESS) return YES;
  set_error(error, status, text(mfa_last_error(_context)));
  return NO;
}

/* The latency is the context's: nobody else may run between the work and this question. */
- (double)secondsAfter:(int32_t)status error:(NSError **)error {
  double seconds = NAN;
  if (status == MFA_SUCCESS) status = mfa_get_latency(_context, &seconds);
  return [self succeeded:status error:error] ? seconds : NAN;
}

- (MFACall *)newCall {
  return [[MFACall alloc] initWithContext:_context];
}

/* Refuses lengths that these entries cannot carry. Empty tensors are legal in the general calls alone. */
- (BOOL)fits:(MFADimensions)d error:(NSError **)error {
  const NSUInteger sizes[] = {d.batch, d.heads, d.seqLengthQ, d.seqLengthKV, d.headDim};
  const NSUInteger most[] = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, 512};
  const char *const names[] = {"batch", "heads", "seqLengthQ", "seqLengthKV", "headDim"};
  for (int i = 0; i < 5; i++) {
    if (sizes[i] >= 1 && sizes[i] <= most[i]) continue;
    set_error(error, MFA_ERROR_INVALID_DIMENSIONS,
              [NSString stringWithFormat:@"%s is %llu; expected 1 to %llu", names[i], (unsigned long long)sizes[i],
                                         (unsigned long long)most[i]]);
    return NO;
  }
  return YES;
}

/* --------------------------------------------------------------------------------------------------- threads ---- */

- (NSUInteger)threadCount {
  uint32_t threads = 0;
  return mfa_get_num_threads(_context, &threads) == MFA_SUCCESS ? threads : 0;
}

- (BOOL)setThreadCount:(NSUInteger)threads error:(NSError **)error {
  const uint32_t count = threads > UINT32_MAX ? UINT32_MAX : (uint32_t)threads;
  return [self succeeded:mfa_set_num_threads(_context, count) error:error];
}

/* -------------------------------------------------------------------------------------- tensors without gaps ---- */

- (double)runAttentionWithQ:(id<MTLBuffer>)qBuffer K:(id<MTLBuffer>)kBuffer V:(id<MTLBuffer>)vBuffer
                          O:(id<MTLBuffer>)oBuffer seqLength:(NSUInteger)seqLength headDim:(NSUInteger)headDim
                      scale:(float)scale causal:(BOOL)causal {
  return [self runAttentionWithQ:qBuffer K:kBuffer V:vBuffer O:oBuffer seqLength:seqLength headDim:headDim scale:scale
                          causal:causal error:NULL];
}

- (double)runAttentionWithQ:(id<MTLBuffer>)qBuffer K:(id<MTLBuffer>)kBuffer V:(id<MTLBuffer>)vBuffer
                          O:(id<MTLBuffer>)oBuffer seqLength:(NSUInteger)seqLength headDim:(NSUInteger)headDim
                      scale:(float)scale causal:(BOOL)causal error:(NSError **)error {
  const MFAStorage plain = MFAStorageMake(MFAPrecisionFP32);
  return [self runAttentionWithQ:qBuffer storage:plain K:kBuffer storage:plain V:vBuffer storage:plain O:oBuffer
                      transposed:NO dimensions:MFADimensionsMake(1, 1, seqLength, seqLength, headDim) scale:scale
                          causal:causal error:error];
}

- (double)runAttentionWithQ:(id<MTLBuffer>)qBuffer storage:(MFAStorage)q K:(id<MTLBuffer>)kBuffer storage:(MFAStorage)k
                          V:(id<MTLBuffer>)vBuffer storage:(MFAStorage)v O:(id<MTLBuffer>)oBuffer
                 transposed:(BOOL)oTransposed dimensions:(MFADimensions)d scale:(float)scale causal:(BOOL)causal
                      error:(NSError **)error {
  if (![self fits:d error:error]) return NAN;
  double seconds = NAN;
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  void *query = [call handleOf:qBuffer], *key = [call handleOf:kBuffer], *value = [call handleOf:vBuffer];
  void *output = [call handleOf:oBuffer];
  @synchronized(self) {
    int32_t status = [call status];
    if (status == MFA_SUCCESS)
      status = mfa_attention_forward(_context, query, key, value, output, (uint32_t)d.batch, (uint32_t)d.seqLengthQ,
                                     (uint32_t)d.seqLengthKV, (uint32_t)d.heads, (uint16_t)d.headDim, scale, causal,
                                     q.precision, k.precision, v.precision, q.transposed, k.transposed, v.transposed,
                                     oTransposed);
    seconds = [self secondsAfter:status error:error];
  }
  MFA_RELEASE(call);
  return seconds;
}

- (double)runQuantizedAttentionWithQ:(id<MTLBuffer>)qBuffer storage:(MFAStorage)q K:(id<MTLBuffer>)kBuffer
                             storage:(MFAStorage)k V:(id<MTLBuffer>)vBuffer storage:(MFAStorage)v
                                   O:(id<MTLBuffer>)oBuffer transposed:(BOOL)oTransposed
                           logsumexp:(id<MTLBuffer>)logsumexp dimensions:(MFADimensions)d scale:(float)scale
                              causal:(BOOL)causal record:(MFAForwardRecord **)record error:(NSError **)error {
  if (record != NULL) *record = nil;
  if (![self fits:d error:error]) return NAN;
  double seconds = NAN;
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  MFAHandle *query = [call keptHandleOf:qBuffer], *key = [call keptHandleOf:kBuffer];
  MFAHandle *value = [call keptHandleOf:vBuffer];
  void *output = [call handleOf:oBuffer], *statistics = [call handleOf:logsumexp];
  @synchronized(self) {
    int32_t status = [call status];
    if (status == MFA_SUCCESS)
      status = mfa_attention_forward_quantized(
          _context, [query handle], [key handle], [value handle], output, statistics, (uint32_t)d.batch,
          (uint32_t)d.seqLengthQ, (uint32_t)d.seqLengthKV, (uint32_t)d.heads, (uint16_t)d.headDim, scale, causal,
          q.precision, k.precision, v.precision, q.scale, q.zeroPoint, k.scale, k.zeroPoint, v.scale, v.zeroPoint,
          q.transposed, k.transposed, v.transposed, oTransposed);
    seconds = [self secondsAfter:status error:error];
    if (status == MFA_SUCCESS && record != NULL) {
      const MFAStorage storage[3] = {q, k, v};
      NSArray *operands = [NSArray arrayWithObjects:query, key, value, nil];
      *record = [MFAForwardRecord recordOf:operands storage:storage dimensions:d];
    }
  }
  MFA_RELEASE(call);
  return seconds;
}

/* The operands of a forward call; NO without a record. */
- (BOOL)open:(MFAForwardRecord *)record query:(void **)query key:(void **)key value:(void **)value
       error:(NSError **)error {
  if (record == nil) {
    set_error(error, MFA_ERROR_INVALID_ARGUMENT,
              @"record is nil; expected that of a call of runQuantizedAttentionWithQ: on the same operands, "
              @"which must come first");
    return NO;
  }
  *query = [record operand:0];
  *key = [record operand:1];
  *value = [record operand:2];
  return YES;
}

- (double)runBackwardQueryWithRecord:(MFAForwardRecord *)record gradO:(id<MTLBuffer>)gradO
                           logsumexp:(id<MTLBuffer>)logsumexp gradQ:(id<MTLBuffer>)gradQ dValues:(id<MTLBuffer>)dValues
                               error:(NSError **)error {
  void *query = NULL, *key = NULL, *value = NULL;
  if (![self open:record query:&query key:&key value:&value error:error]) return NAN;
  const MFADimensions d = [record dimensions];
  const MFAStorage q = [record storage:0];
  double seconds = NAN;
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  void *output_gradient = [call handleOf:gradO], *statistics = [call handleOf:logsumexp];
  void *query_gradient = [call handleOf:gradQ], *sums = [call handleOf:dValues];
  @synchronized(self) {
    int32_t status = [call status];
    if (status == MFA_SUCCESS)
      status = mfa_attention_backward_query_quantized(
          _context, query, key, value, output_gradient, statistics, query_gradient, sums, (uint32_t)d.batch,
          (uint32_t)d.seqLengthQ, (uint32_t)d.seqLengthKV, (uint32_t)d.heads, (uint16_t)d.headDim, q.scale,
          q.zeroPoint);
    seconds = [self secondsAfter:status error:error];
  }
  MFA_RELEASE(call);
  return seconds;
}

- (double)runBackwardKeyValueWithRecord:(MFAForwardRecord *)record gradO:(id<MTLBuffer>)gradO
                              logsumexp:(id<MTLBuffer>)logsumexp dValues:(id<MTLBuffer>)dValues
                                  gradK:(id<MTLBuffer>)gradK gradV:(id<MTLBuffer>)gradV error:(NSError **)error {
  void *query = NULL, *key = NULL, *value = NULL;
  if (![self open:record query:&query key:&key value:&value error:error]) return NAN;
  const MFADimensions d = [record dimensions];
  const MFAStorage q = [record storage:0], k = [record storage:1], v = [record storage:2];
  double seconds = NAN;
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  void *output_gradient = [call handleOf:gradO], *statistics = [call handleOf:logsumexp];
  void *sums = [call handleOf:dValues];
  void *key_gradient = [call handleOf:gradK], *value_gradient = [call handleOf:gradV];
  @synchronized(self) {
    int32_t status = [call status];
    if (status == MFA_SUCCESS)
      status = mfa_attention_backward_kv_quantized(
          _context, query, key, value, output_gradient, statistics, sums, key_gradient, value_gradient,
          (uint32_t)d.batch, (uint32_t)d.seqLengthQ, (uint32_t)d.seqLengthKV, (uint32_t)d.heads, (uint16_t)d.headDim,
          q.scale, q.zeroPoint, k.scale, k.zeroPoint, v.scale, v.zeroPoint);
    seconds = [self secondsAfter:status error:error];
  }
  MFA_RELEASE(call);
  return seconds;
}

/* ----------------------------------------------------------------------------------------- the general calls ---- */

- (double)runForward:(MFAForward *)forward error:(NSError **)error {
  double seconds = NAN;
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  const mfa_forward_desc desc = [call forwardOf:forward];
  @synchronized(self) {
    const int32_t status = [call status];
    seconds = [self secondsAfter:status == MFA_SUCCESS ? mfa_forward(_context, &desc) : status error:error];
  }
  MFA_RELEASE(call);
  return seconds;
}

- (double)runBackward:(MFABackward *)backward error:(NSError **)error {
  double seconds = NAN;
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  const mfa_backward_desc desc = [call backwardOf:backward];
  @synchronized(self) {
    const int32_t status = [call status];
    seconds = [self secondsAfter:status == MFA_SUCCESS ? mfa_backward(_context, &desc) : status error:error];
  }
  MFA_RELEASE(call);
  return seconds;
}

- (double)quantize:(MFATensor *)source into:(MFATensor *)destination flags:(uint32_t)flags
            report:(mfa_quantization_error *)report error:(NSError **)error {
  double seconds = NAN;
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  const mfa_quantize_desc desc = {.struct_size = sizeof desc,
                                  .flags = flags,
                                  .source = [call viewOf:source],
                                  .destination = [call viewOf:destination],
                                  .error = report};
  @synchronized(self) {
    const int32_t status = [call status];
    seconds = [self secondsAfter:status == MFA_SUCCESS ? mfa_quantize(_context, &desc) : status error:error];
  }
  MFA_RELEASE(call);
  return seconds;
}

/* A new buffer for that many elements; nil, and an error, if there is no memory. */
- (id<MTLBuffer>)bufferFor:(const uint64_t *)sizes count:(int)count bits:(uint64_t)bits error:(NSError **)error {
  uint64_t total = bits;
  BOOL fits = YES;
  for (int i = 0; i < count; i++) fits = fits && !__builtin_mul_overflow(total, sizes[i], &total);
  const uint64_t bytes = total / 8 + (total % 8 != 0);
  fits = fits && bytes <= NSUIntegerMax;
  /* Metal has no buffers of 0 bytes. */
  const NSUInteger length = bytes > 0 ? (NSUInteger)bytes : 1;
  id<MTLBuffer> buffer =
      fits ? MFA_AUTORELEASE([_device newBufferWithLength:length options:MTLResourceStorageModeShared]) : nil;
  if (buffer == nil)
    set_error(error, MFA_ERROR_BUFFER_ALLOCATION,
              [NSString stringWithFormat:@"the device has no buffer for a tensor of %llu bytes",
                                         (unsigned long long)(fits ? bytes : UINT64_MAX)]);
  return buffer;
}

- (MFATensor *)tensorByQuantizing:(MFATensor *)source precision:(MFAPrecision)precision
                      granularity:(MFAGranularity)granularity blockRows:(NSUInteger)blockRows
                           report:(mfa_quantization_error *)report error:(NSError **)error {
  const MFAShape empty = {0};
  const MFAShape shape = source == nil ? empty : source.shape;
  const BOOL blocks = granularity == MFAGranularityBlock || granularity == MFAGranularityChannel;
  const uint64_t per_block = blocks && blockRows > 0 ? blockRows : 1;
  const uint64_t rows = shape.rows / per_block + (shape.rows % per_block != 0);
  const uint64_t data_sizes[] = {shape.batch, shape.heads, shape.rows, shape.columns};
  const uint64_t columns = granularity == MFAGranularityChannel ? shape.columns : 1;
  const uint64_t scale_sizes[] = {shape.batch, shape.heads, rows, columns};
  const int scale_dimensions = granularity == MFAGranularityTensor ? 0 : 4;

  id<MTLBuffer> data = [self bufferFor:data_sizes count:4 bits:precision == MFAPrecisionINT4 ? 4 : 8 error:error];
  if (data == nil) return nil;
  id<MTLBuffer> scales = [self bufferFor:scale_sizes count:scale_dimensions bits:32 error:error];
  if (scales == nil) return nil;
  MFATensor *result = [MFATensor tensorWithBuffer:data precision:precision shape:shape];
  result.quantization = [MFAQuantization quantizationWithGranularity:granularity scales:scales];
  result.quantization.blockRows = blockRows;
  return isnan([self quantize:source into:result flags:0 report:report error:error]) ? nil : result;
}

- (double)dequantize:(MFATensor *)source into:(MFATensor *)destination error:(NSError **)error {
  double seconds = NAN;
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  const mfa_tensor from = [call viewOf:source], to = [call viewOf:destination];
  @synchronized(self) {
    const int32_t status = [call status];
    seconds = [self secondsAfter:status == MFA_SUCCESS ? mfa_dequantize(_context, &from, &to) : status error:error];
  }
  MFA_RELEASE(call);
  return seconds;
}

/* ------------------------------------------------------------------------------------------ plans and memory ---- */

/* One of the two is not NULL. */
- (NSString *)explain:(const mfa_forward_desc *)forward or:(const mfa_backward_desc *)backward status:(int32_t)status
                error:(NSError **)error {
  size_t length = 0;
  if (status == MFA_SUCCESS) status = mfa_explain(_context, forward, backward, NULL, 0, &length);
  if (![self succeeded:status error:error]) return nil;
  NSMutableData *plan = [NSMutableData dataWithLength:length + 1];
  status = mfa_explain(_context, forward, backward, [plan mutableBytes], [plan length], NULL);
  return [self succeeded:status error:error] ? text([plan bytes]) : nil;
}

- (NSString *)explainForward:(MFAForward *)forward error:(NSError **)error {
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  const mfa_forward_desc desc = [call forwardOf:forward];
  NSString *plan = [self explain:&desc or:NULL status:[call status] error:error];
  MFA_RELEASE(call);
  return plan;
}

- (NSString *)explainBackward:(MFABackward *)backward error:(NSError **)error {
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  const mfa_backward_desc desc = [call backwardOf:backward];
  NSString *plan = [self explain:NULL or:&desc status:[call status] error:error];
  MFA_RELEASE(call);
  return plan;
}

- (BOOL)getWorkspaceSize:(uint64_t *)bytes ofForward:(MFAForward *)forward error:(NSError **)error {
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  const mfa_forward_desc desc = [call forwardOf:forward];
  int32_t status = [call status];
  if (status == MFA_SUCCESS) status = mfa_workspace_size(_context, &desc, NULL, bytes);
  MFA_RELEASE(call);
  return [self succeeded:status error:error];
}

- (BOOL)getWorkspaceSize:(uint64_t *)bytes ofBackward:(MFABackward *)backward error:(NSError **)error {
  MFA_UNTIL_END_OF_SCOPE MFACall *call = [self newCall];
  const mfa_backward_desc desc = [call backwardOf:backward];
  int32_t status = [call status];
  if (status == MFA_SUCCESS) status = mfa_workspace_size(_context, NULL, &desc, bytes);
  MFA_RELEASE(call);
  return [self succeeded:status error:error];
}

@end
