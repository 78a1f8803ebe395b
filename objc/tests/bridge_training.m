#import "bridge_test.h"

#include <string.h>

/* A training step on INT8 operands, one scale each: fixed entries with a record. */
typedef struct step {
  id<MTLBuffer> q, k, v, o, logsumexp, grad_o, d_values, grad_q, grad_k, grad_v;
  MFAStorage storage;
  MFADimensions dimensions;
} step;

static id<MTLBuffer> integers(uint32_t seed) {
  id<MTLBuffer> source = numbers(COUNT, seed), result = zeros(COUNT);
  for (int i = 0; i < COUNT; i++)
    ((int8_t *)[result contents])[i] = (int8_t)lrintf(100.0f * ((float *)[source contents])[i]);
  return result;
}

static step make_step(void) {
  const step s = {.q = integers(1),
                  .k = integers(2),
                  .v = integers(3),
                  .o = zeros(COUNT * sizeof(float)),
                  .logsumexp = zeros(ROWS * sizeof(float)),
                  .grad_o = numbers(COUNT, 4),
                  .d_values = zeros(ROWS * sizeof(float)),
                  .grad_q = zeros(COUNT * sizeof(float)),
                  .grad_k = zeros(COUNT * sizeof(float)),
                  .grad_v = zeros(COUNT * sizeof(float)),
                  .storage = MFAStorageQuantized(MFAPrecisionINT8, 0.02f, 1),
                  .dimensions = MFADimensionsMake(1, 1, ROWS, ROWS, COLUMNS)};
  return s;
}

static double forward(step s, MFAForwardRecord **record, NSError **error) {
  return [bridge runQuantizedAttentionWithQ:s.q storage:s.storage K:s.k storage:s.storage V:s.v storage:s.storage O:s.o
                                 transposed:NO logsumexp:s.logsumexp dimensions:s.dimensions scale:0.3f causal:YES
                                     record:record error:error];
}

static double backward(step s, MFAForwardRecord *record, NSError **error) {
  const double query = [bridge runBackwardQueryWithRecord:record gradO:s.grad_o logsumexp:s.logsumexp gradQ:s.grad_q
                                                  dValues:s.d_values error:error];
  if (isnan(query)) return query;
  return [bridge runBackwardKeyValueWithRecord:record gradO:s.grad_o logsumexp:s.logsumexp dValues:s.d_values
                                         gradK:s.grad_k gradV:s.grad_v error:error];
}

static MFATensor *stored(id<MTLBuffer> buffer) {
  MFATensor *tensor =
      [MFATensor tensorWithBuffer:buffer precision:MFAPrecisionINT8 shape:MFAShapeMake(1, 1, ROWS, COLUMNS)];
  tensor.quantization = [MFAQuantization quantizationWithScale:0.02f zeroPoint:1];
  return tensor;
}

/* The largest difference of two buffers of numbers. */
static double apart(id<MTLBuffer> a, id<MTLBuffer> b) {
  double worst = 0.0;
  for (NSUInteger i = 0; i < [a length] / sizeof(float); i++)
    worst = fmax(worst, fabs((double)((float *)[a contents])[i] - (double)((float *)[b contents])[i]));
  return worst;
}

/* The gradients of the record are those of the general call, which is told everything. */
static void same_as_the_general_call(void) {
  step s = make_step();
  MFAForwardRecord *record = nil;
  NSError *error = nil;
  CHECK_RAN(forward(s, &record, &error), error);
  CHECK(record != nil, @"no record");
  CHECK_RAN(backward(s, record, &error), error);
  MFABackward *general = [[[MFABackward alloc] init] autorelease];
  general.query = stored(s.q);
  general.key = stored(s.k);
  general.value = stored(s.v);
  general.gradOutput = matrix(s.grad_o);
  general.logsumexp =
      [MFATensor tensorWithBuffer:s.logsumexp precision:MFAPrecisionFP32 shape:MFAShapeMake(1, 1, ROWS, 1)];
  general.gradQuery = matrix(zeros(COUNT * sizeof(float)));
  general.gradKey = matrix(zeros(COUNT * sizeof(float)));
  general.gradValue = matrix(zeros(COUNT * sizeof(float)));
  general.options = [MFAAttentionOptions options];
  general.options.softmaxScale = 0.3f;
  general.options.causal = YES;
  CHECK_RAN([bridge runBackward:general error:&error], error);
  CHECK([bridge explainBackward:general error:&error] != nil, @"no plan: %@", error);
  uint64_t bytes = 0;
  CHECK([bridge getWorkspaceSize:&bytes ofBackward:general error:&error], @"no size: %@", error);
  CHECK(apart(s.grad_q, general.gradQuery.buffer) < 1e-5, @"dQ differs by %g",
        apart(s.grad_q, general.gradQuery.buffer));
  CHECK(apart(s.grad_k, general.gradKey.buffer) < 1e-5, @"dK differs by %g", apart(s.grad_k, general.gradKey.buffer));
  CHECK(apart(s.grad_v, general.gradValue.buffer) < 1e-5, @"dV differs by %g",
        apart(s.grad_v, general.gradValue.buffer));
  CHECK(apart(s.grad_q, zeros([s.grad_q length])) > 1e-3, @"dQ is nothing");
}

static void without_a_record(void) {
  step s = make_step();
  MFAForwardRecord *record = (MFAForwardRecord *)s.q;
  NSError *error = nil;
  double seconds = backward(s, nil, &error);
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"record is nil");
  s.o = nil;
  seconds = forward(s, &record, &error);
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"output");
  CHECK(record == nil, @"a record of a call that failed");
  seconds =
      [bridge runBackwardKeyValueWithRecord:nil gradO:nil logsumexp:nil dValues:nil gradK:nil gradV:nil error:NULL];
  CHECK(isnan(seconds), @"ran without anything");
}

/* Another bridge has no such forward call. */
static void of_another_bridge(void) {
  step s = make_step();
  MFAForwardRecord *record = nil;
  NSError *error = nil;
  CHECK_RAN(forward(s, &record, &error), error);
  MFABridge *other = [[[MFABridge alloc] initWithDevice:device] autorelease];
  const double seconds = [other runBackwardQueryWithRecord:record gradO:s.grad_o logsumexp:s.logsumexp gradQ:s.grad_q
                                                   dValues:s.d_values error:&error];
  CHECK_REFUSED(seconds, error, MFA_ERROR_INVALID_ARGUMENT, @"mfa_attention_forward_quantized");
}

/* The record alone keeps the operands; without it they go. */
static void record_keeps_operands(void) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  step s = make_step();
  MFAForwardRecord *record = nil;
  NSError *error = nil;
  CHECK_RAN(forward(s, &record, &error), error);
  id<MTLBuffer> kept[] = {s.o, s.logsumexp, s.grad_o, s.d_values, s.grad_q, s.grad_k, s.grad_v, s.q};
  for (int i = 0; i < 8; i++) [kept[i] retain];
  [record retain];
  [pool release];

  CHECK([s.q retainCount] == 2, @"query is held %lu times: by the record and by this test, expected 2",
        (unsigned long)[s.q retainCount]);
  CHECK_RAN(backward(s, record, &error), error);
  [record release];
  CHECK([s.q retainCount] == 1, @"query is held %lu times after its record is gone, expected 1",
        (unsigned long)[s.q retainCount]);
  for (int i = 0; i < 8; i++) [kept[i] release];
}

void test_training(void) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  same_as_the_general_call();
  without_a_record();
  of_another_bridge();
  record_keeps_operands();
  [pool release];
}
