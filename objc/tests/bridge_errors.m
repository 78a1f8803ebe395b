#import "bridge_test.h"

#include <string.h>

/* A device that no driver knows. */
@interface StrangeDevice : NSObject
- (NSString *)name;
- (uint64_t)registryID;
@end

@implementation StrangeDevice
- (NSString *)name {
  return @"a device of another maker";
}
- (uint64_t)registryID {
  return 12345;
}
@end

static double run(head h, NSUInteger rows, NSUInteger columns, float scale, NSError **error) {
  return [bridge runAttentionWithQ:h.q K:h.k V:h.v O:h.o seqLength:rows headDim:columns scale:scale causal:NO
                             error:error];
}

static double run_stored(head h, MFAStorage storage, MFADimensions dimensions, NSError **error) {
  return [bridge runAttentionWithQ:h.q storage:storage K:h.k storage:storage V:h.v storage:storage O:h.o transposed:NO
                        dimensions:dimensions scale:1.0f causal:NO error:error];
}

static void devices(void) {
  NSError *error = nil;
  CHECK([[[MFABridge alloc] initWithDevice:nil] autorelease] == nil, @"a bridge without a device");
  CHECK([[[MFABridge alloc] init] autorelease] == nil, @"a bridge without a device");
  MFABridge *none = [[[MFABridge alloc] initWithDevice:nil error:&error] autorelease];
  CHECK_REFUSED(none == nil ? NAN : 0.0, error, MFA_ERROR_INVALID_ARGUMENT, @"device is nil");
  CHECK([[[MFABridge alloc] initWithDevice:nil error:NULL] autorelease] == nil, @"a bridge without a device");

  id<MTLDevice> strange = (id<MTLDevice>)[[[StrangeDevice alloc] init] autorelease];
  MFABridge *stranger = [[[MFABridge alloc] initWithDevice:strange error:&error] autorelease];
  if ([[bridge deviceBackend] isEqualToString:@"cpu"]) {
    CHECK([[stranger deviceName] isEqualToString:[bridge deviceName]], @"the processor serves any device; found %@",
          [stranger deviceName]);
  } else {
    CHECK_REFUSED(stranger == nil ? NAN : 0.0, error, MFA_ERROR_UNSUPPORTED, @"a device of another maker");
  }
}

static void nil_buffers(void) {
  const char *const roles[] = {"query", "key", "value", "output"};
  for (int i = 0; i < 4; i++) {
    head h = make_head();
    id<MTLBuffer> *const all[] = {&h.q, &h.k, &h.v, &h.o};
    *all[i] = nil;
    NSError *error = nil;
    const double seconds = run(h, ROWS, COLUMNS, 1.0f, &error);
    CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, [NSString stringWithUTF8String:roles[i]]);
    CHECK(isnan([bridge runAttentionWithQ:h.q K:h.k V:h.v O:h.o seqLength:ROWS headDim:COLUMNS scale:1.0f causal:YES]),
          @"the short method ran without %s", roles[i]);
    CHECK(isnan(run(h, ROWS, COLUMNS, 1.0f, NULL)), @"ran without %s", roles[i]);
  }
  CHECK([device newBufferWithLength:0 options:MTLResourceStorageModeShared] == nil, @"Metal has no empty buffers");
}

static void short_buffers(void) {
  for (int i = 0; i < 4; i++) {
    head h = make_head();
    id<MTLBuffer> *const all[] = {&h.q, &h.k, &h.v, &h.o};
    *all[i] = zeros(COUNT * sizeof(float) - 1);
    NSError *error = nil;
    const double seconds = run(h, ROWS, COLUMNS, 1.0f, &error);
    CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"needs 3552 bytes; the buffer has 3551");
  }
}

/* Each leaves the output as it was. */
static void numbers_that_are_wrong(void) {
  typedef struct wrong {
    NSUInteger rows, columns;
    float scale;
    int32_t status;
    const char *words;
  } wrong;
  const wrong list[] = {
      {0, COLUMNS, 1.0f, MFA_ERROR_INVALID_DIMENSIONS, "seqLengthQ is 0; expected 1 to"},
      {ROWS, 0, 1.0f, MFA_ERROR_INVALID_DIMENSIONS, "headDim is 0; expected 1 to 512"},
      {ROWS, 513, 1.0f, MFA_ERROR_INVALID_DIMENSIONS, "headDim is 513; expected 1 to 512"},
      {ROWS, 65536 + COLUMNS, 1.0f, MFA_ERROR_INVALID_DIMENSIONS, "headDim is 65560; expected 1 to 512"},
      {((NSUInteger)1 << 32) + ROWS, COLUMNS, 1.0f, MFA_ERROR_INVALID_DIMENSIONS, "seqLengthQ is 4294967333"},
      {NSUIntegerMax, COLUMNS, 1.0f, MFA_ERROR_INVALID_DIMENSIONS, "seqLengthQ"},
      {ROWS, COLUMNS, NAN, MFA_ERROR_INVALID_ARGUMENT, "softmax_scale"},
      {ROWS, COLUMNS, INFINITY, MFA_ERROR_INVALID_ARGUMENT, "softmax_scale"},
  };
  const head h = make_head();
  memset([h.o contents], 0x5A, [h.o length]);
  for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
    const wrong w = list[i];
    NSError *error = nil;
    const double seconds = run(h, w.rows, w.columns, w.scale, &error);
    CHECK_REFUSED(seconds, error, w.status, [NSString stringWithUTF8String:w.words]);
  }
  const MFADimensions right = MFADimensionsMake(1, 1, ROWS, ROWS, COLUMNS);
  NSError *error = nil;
  double seconds = run_stored(h, MFAStorageMake((MFAPrecision)77), right, &error);
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"q_precision is 77");
  seconds = run_stored(h, MFAStorageMake(MFAPrecisionBool), right, &error);
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"q_precision is 16");
  seconds = run_stored(h, MFAStorageQuantized(MFAPrecisionINT8, 0.1f, 0), right, &error);
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"q_precision is 8");
  seconds = run_stored(h, MFAStorageMake(MFAPrecisionFP32), MFADimensionsMake(0, 1, ROWS, ROWS, COLUMNS), &error);
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_DIMENSIONS, @"batch is 0");
  seconds = run_stored(h, MFAStorageMake(MFAPrecisionFP32), MFADimensionsMake(1, 2, ROWS, ROWS, COLUMNS), &error);
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"bytes");
  const unsigned char *bytes = [h.o contents];
  BOOL untouched = YES;
  for (NSUInteger i = 0; i < [h.o length]; i++) untouched = untouched && bytes[i] == 0x5A;
  CHECK(untouched, @"a call that was refused has written to the output");
}

static void nil_objects(void) {
  NSError *error = nil;
  uint64_t size = 0;
  const head h = make_head();
  double seconds = [bridge runForward:nil error:&error];
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"query");
  CHECK(isnan([bridge runForward:nil error:NULL]), @"ran nothing");
  seconds = [bridge runBackward:nil error:&error];
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"query");
  seconds = [bridge quantize:nil into:nil flags:0 report:NULL error:&error];
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"source");
  seconds = [bridge dequantize:nil into:nil error:&error];
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"source");
  CHECK([bridge explainForward:nil error:&error] == nil && error.code == MFA_ERROR_INVALID_ARGUMENT,
        @"explained nothing");
  CHECK([bridge explainBackward:nil error:NULL] == nil, @"explained nothing");
  CHECK(![bridge getWorkspaceSize:&size ofForward:nil error:&error], @"the size of nothing");
  CHECK(![bridge getWorkspaceSize:&size ofBackward:nil error:&error], @"the size of nothing");
  CHECK(![bridge getWorkspaceSize:NULL ofForward:forward_of(h) error:&error], @"a size to nowhere");
  MFAForward *forward = forward_of(h);
  forward.key.buffer = nil;
  seconds = [bridge runForward:forward error:&error];
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"key");
  forward = forward_of(h);
  forward.value.precision = MFAPrecisionINT8;
  seconds = [bridge runForward:forward error:&error];
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"value");
  forward.value.quantization = [MFAQuantization quantizationWithGranularity:MFAGranularityRow scales:nil];
  seconds = [bridge runForward:forward error:&error];
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"scale");
}

static void quantizing(void) {
  NSError *error = nil;
  CHECK([bridge tensorByQuantizing:nil precision:MFAPrecisionINT8 granularity:MFAGranularityTensor blockRows:0
                            report:NULL error:&error] == nil &&
            error.code == MFA_ERROR_INVALID_ARGUMENT,
        @"quantized nothing: %@", error);
  MFATensor *source = matrix(numbers(COUNT, 4));
  CHECK([bridge tensorByQuantizing:source precision:MFAPrecisionFP16 granularity:MFAGranularityTensor blockRows:0
                            report:NULL error:&error] == nil,
        @"quantized to FP16");
  CHECK([bridge tensorByQuantizing:source precision:MFAPrecisionINT8 granularity:MFAGranularityBlock blockRows:0
                            report:NULL error:&error] == nil,
        @"quantized to blocks of no rows");
  CHECK([bridge tensorByQuantizing:source precision:MFAPrecisionINT8 granularity:(MFAGranularity)9 blockRows:0
                            report:NULL error:NULL] == nil,
        @"quantized to an unknown granularity");
  ((float *)[source.buffer contents])[5] = NAN;
  CHECK([bridge tensorByQuantizing:source precision:MFAPrecisionINT8 granularity:MFAGranularityRow blockRows:0
                            report:NULL error:&error] == nil &&
            error.code == MFA_ERROR_INVALID_ARGUMENT,
        @"quantized NaN");
  source.shape = MFAShapeMake(UINT64_MAX, 2, 3, 4);
  CHECK([bridge tensorByQuantizing:source precision:MFAPrecisionINT8 granularity:MFAGranularityTensor blockRows:0
                            report:NULL error:&error] == nil &&
            error.code == MFA_ERROR_BUFFER_ALLOCATION,
        @"quantized more than there is memory for: %@", error);
}

void test_errors(void) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  devices();
  nil_buffers();
  short_buffers();
  numbers_that_are_wrong();
  nil_objects();
  quantizing();
  [pool release];
}
