/*
 * Runs the conformance vectors through MFABridge. Arguments and exit status are those of
 * tests/conformance/c/conformance.c, of which this is the Objective-C edition: every case goes through Metal buffers,
 * MFATensor and the methods of the bridge. The driver is the one that the program is linked with.
 */
#import "MFABridge.h"

#include <math.h>
#include <string.h>

#include "runner.h"

static id<MTLDevice> metal;
static MFABridge *bridge;
/* Of the training forward call of the case that runs. */
static MFAForwardRecord *record;
static char last_message[1024];

/* The status of a method that returned seconds; keeps the message, and drains the pool of the call. */
static int32_t finish(NSAutoreleasePool *pool, double seconds, NSError *error) {
  int32_t status = MFA_SUCCESS;
  if (isnan(seconds)) {
    status = error == nil ? -1 : (int32_t)[error code];
    snprintf(last_message, sizeof last_message, "%s", error == nil ? "" : [[error localizedDescription] UTF8String]);
  }
  [pool release];
  return status;
}

static const char *message(void) { return last_message; }

static void create(live_case *live) {
  for (int i = 0; i < live->c->buffer_count; i++) {
    const vector_buffer *buffer = &live->c->buffers[i];
    /* Metal has no empty buffers. */
    id<MTLBuffer> made =
        [metal newBufferWithLength:buffer->size > 0 ? buffer->size : 1 options:MTLResourceStorageModeShared];
    if (made == nil) {
      fprintf(stderr, "%s: no buffer of %llu bytes\n", live->c->name, (unsigned long long)buffer->size);
      exit(2);
    }
    live->buffers[i].handle = (void *)made;
    live->buffers[i].bytes = [made contents];
    if (buffer->room)
      memset([made contents], 0xFF, buffer->size);
    else
      memcpy([made contents], live->c->bytes + buffer->offset, buffer->size);
  }
}

static void destroy(live_case *live) {
  [record release];
  record = nil;
  for (int i = 0; i < live->c->buffer_count; i++) [(id)live->buffers[i].handle release];
}

static id<MTLBuffer> buffer_of(const live_case *live, int buffer) {
  return buffer < 0 ? nil : (id<MTLBuffer>)live->buffers[buffer].handle;
}

static MFAQuantization *quantization(const live_case *live, const vector_tensor *found) {
  const mfa_quantization *q = &found->quantization;
  const MFAStrides strides = {q->scale_strides[0], q->scale_strides[1], q->scale_strides[2], q->scale_strides[3]};
  MFAQuantization *result = [MFAQuantization quantizationWithScale:q->scale zeroPoint:q->zero_point];
  result.granularity = q->granularity;
  result.blockRows = q->block_rows;
  result.groupSize = q->group_size;
  result.scaleBuffer = buffer_of(live, found->scale_buffer);
  result.scaleOffset = q->scale_offset;
  result.scalePrecision = q->scale_precision;
  result.scaleStrides = strides;
  result.rotation = q->rotated;
  result.zeroPointBuffer = buffer_of(live, found->zero_point_buffer);
  result.zeroPointOffset = q->zero_point_offset;
  result.zeroPointBytes = q->zero_point_bytes;
  result.meanBuffer = buffer_of(live, found->mean_buffer);
  result.meanOffset = q->mean_offset;
  return result;
}

static MFATensor *tensor(live_case *live, const char *role) {
  const vector_tensor *found = vector_find(live->c, role);
  if (found == NULL) return nil;
  const uint64_t *shape = found->view.shape;
  const int64_t *s = found->view.strides;
  const MFAStrides strides = {s[0], s[1], s[2], s[3]};
  MFATensor *result = [MFATensor tensorWithBuffer:buffer_of(live, found->buffer) precision:found->view.precision
                                            shape:MFAShapeMake(shape[0], shape[1], shape[2], shape[3])];
  result.byteOffset = found->view.byte_offset;
  result.strides = strides;
  if (found->quantized) result.quantization = quantization(live, found);
  return result;
}

static MFAAttentionOptions *options(live_case *live) {
  const mfa_attention_options *o = &live->c->options;
  MFAAttentionOptions *result = [MFAAttentionOptions options];
  result.softmaxScale = o->softmax_scale;
  result.softcap = o->softcap;
  result.alignment = o->alignment;
  result.compute = o->compute;
  result.windowLeft = o->window_left;
  result.windowRight = o->window_right;
  result.flags = o->flags;
  result.mask = tensor(live, "mask");
  result.alibiSlopes = tensor(live, "alibi_slopes");
  result.sinks = tensor(live, "sinks");
  result.sequenceCount = o->sequence_count;
  result.cuSeqlensQ = buffer_of(live, live->c->cu_buffers[0]);
  result.cuSeqlensQOffset = o->cu_seqlens_q_offset;
  result.cuSeqlensK = buffer_of(live, live->c->cu_buffers[1]);
  result.cuSeqlensKOffset = o->cu_seqlens_k_offset;
  return result;
}

static int32_t call_forward(live_case *live) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  MFAForward *forward = [[[MFAForward alloc] init] autorelease];
  forward.query = tensor(live, "query");
  forward.key = tensor(live, "key");
  forward.value = tensor(live, "value");
  forward.output = tensor(live, "output");
  forward.logsumexp = tensor(live, "logsumexp");
  forward.options = options(live);
  NSError *error = nil;
  const double seconds = [bridge runForward:forward error:&error];
  return finish(pool, seconds, error);
}

static int32_t call_backward(live_case *live) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  MFABackward *backward = [[[MFABackward alloc] init] autorelease];
  backward.flags = live->c->flags;
  backward.query = tensor(live, "query");
  backward.key = tensor(live, "key");
  backward.value = tensor(live, "value");
  backward.output = tensor(live, "given_output");
  backward.gradOutput = tensor(live, "grad_output");
  backward.logsumexp = tensor(live, "given_logsumexp");
  backward.dValues = tensor(live, "d_values");
  backward.gradQuery = tensor(live, "grad_query");
  backward.gradKey = tensor(live, "grad_key");
  backward.gradValue = tensor(live, "grad_value");
  backward.gradMask = tensor(live, "grad_mask");
  backward.gradSinks = tensor(live, "grad_sinks");
  backward.options = options(live);
  NSError *error = nil;
  const double seconds = [bridge runBackward:backward error:&error];
  return finish(pool, seconds, error);
}

static int32_t call_quantize(live_case *live) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  NSError *error = nil;
  const double seconds = [bridge quantize:tensor(live, "source") into:tensor(live, "destination") flags:live->c->flags
                                   report:&live->report error:&error];
  return finish(pool, seconds, error);
}

static int32_t call_dequantize(live_case *live) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  NSError *error = nil;
  const double seconds = [bridge dequantize:tensor(live, "source") into:tensor(live, "destination") error:&error];
  return finish(pool, seconds, error);
}

/* The arguments of the entries for tensors without gaps, and their buffers. */
typedef struct parts {
  id<MTLBuffer> q, k, v, o;
  MFAStorage q_storage, k_storage, v_storage;
  BOOL o_transposed, causal;
  MFADimensions dimensions;
  float scale;
} parts;

static id<MTLBuffer> whole(live_case *live, const char *role) {
  const vector_tensor *found = vector_find(live->c, role);
  return found == NULL ? nil : buffer_of(live, found->buffer);
}

static MFAStorage storage(live_case *live, const char *role) {
  const vector_tensor *found = vector_find(live->c, role);
  MFAStorage result = MFAStorageMake(found->view.precision);
  const mfa_quantization *q = &found->quantization;
  if (found->quantized) result = MFAStorageQuantized(found->view.precision, q->scale, q->zero_point);
  result.transposed = found->view.strides[3] != 1;
  return result;
}

static parts take_apart(live_case *live) {
  const uint64_t *q = vector_find(live->c, "query")->view.shape, *k = vector_find(live->c, "key")->view.shape;
  const parts result = {.q = whole(live, "query"),
                        .k = whole(live, "key"),
                        .v = whole(live, "value"),
                        .o = whole(live, "output"),
                        .q_storage = storage(live, "query"),
                        .k_storage = storage(live, "key"),
                        .v_storage = storage(live, "value"),
                        .o_transposed = vector_find(live->c, "output")->view.strides[3] != 1,
                        .causal = (live->c->options.flags & MFA_OPTION_CAUSAL) != 0,
                        .dimensions = MFADimensionsMake(q[0], q[1], q[2], k[2], q[3]),
                        .scale = live->c->options.softmax_scale};
  return result;
}

static int32_t call_plain(live_case *live) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  const parts p = take_apart(live);
  NSError *error = nil;
  const double seconds =
      [bridge runAttentionWithQ:p.q storage:p.q_storage K:p.k storage:p.k_storage V:p.v storage:p.v_storage O:p.o
                     transposed:p.o_transposed dimensions:p.dimensions scale:p.scale causal:p.causal error:&error];
  return finish(pool, seconds, error);
}

static int32_t call_training_forward(live_case *live) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  const parts p = take_apart(live);
  NSError *error = nil;
  const double seconds =
      [bridge runQuantizedAttentionWithQ:p.q storage:p.q_storage K:p.k storage:p.k_storage V:p.v storage:p.v_storage
                                       O:p.o transposed:p.o_transposed logsumexp:whole(live, "logsumexp")
                              dimensions:p.dimensions scale:p.scale causal:p.causal record:&record error:&error];
  [record retain];
  return finish(pool, seconds, error);
}

static int32_t call_training_backward(live_case *live) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  NSError *error = nil;
  id<MTLBuffer> grad_o = whole(live, "grad_output"), logsumexp = whole(live, "given_logsumexp");
  id<MTLBuffer> d_values = whole(live, "d_values");
  double seconds = [bridge runBackwardQueryWithRecord:record gradO:grad_o logsumexp:logsumexp
                                                gradQ:whole(live, "grad_query") dValues:d_values error:&error];
  if (!isnan(seconds))
    seconds = [bridge runBackwardKeyValueWithRecord:record gradO:grad_o logsumexp:logsumexp dValues:d_values
                                              gradK:whole(live, "grad_key") gradV:whole(live, "grad_value")
                                              error:&error];
  return finish(pool, seconds, error);
}

static const char *open_driver(const char *library) {
  if (library != NULL) return "this program uses the driver that it is linked with: leave MFA_DRIVER and --driver out";
  NSError *error = nil;
  metal = MTLCreateSystemDefaultDevice();
  bridge = [[MFABridge alloc] initWithDevice:metal error:&error];
  return bridge != nil ? NULL : [[error localizedDescription] UTF8String];
}

static void close_driver(void) {
  [bridge release];
  [metal release];
}

static const char *device(void) { return [[bridge deviceName] UTF8String]; }

int main(int argc, char **argv) {
  static const binding objective_c = {.open = open_driver,
                                      .close = close_driver,
                                      .device = device,
                                      .message = message,
                                      .create = create,
                                      .destroy = destroy,
                                      .forward = call_forward,
                                      .backward = call_backward,
                                      .quantize = call_quantize,
                                      .dequantize = call_dequantize,
                                      .plain = call_plain,
                                      .training_forward = call_training_forward,
                                      .training_backward = call_training_backward};
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  const int status = runner_main(argc, argv, &objective_c);
  [pool release];
  return status;
}
