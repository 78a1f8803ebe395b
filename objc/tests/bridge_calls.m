#import "bridge_test.h"

/* The largest difference from attention in double precision, of the head of make_head(). */
static double difference(head h, double scale, BOOL causal) {
  const float *q = [h.q contents], *k = [h.k contents], *v = [h.v contents], *o = [h.o contents];
  double worst = 0.0;
  for (int i = 0; i < ROWS; i++) {
    double p[ROWS], sum = 0.0;
    for (int j = 0; j < ROWS; j++) {
      double dot = 0.0;
      for (int c = 0; c < COLUMNS; c++) dot += (double)q[i * COLUMNS + c] * (double)k[j * COLUMNS + c];
      p[j] = causal && j > i ? 0.0 : exp(scale * dot);
      sum += p[j];
    }
    for (int c = 0; c < COLUMNS; c++) {
      double value = 0.0;
      for (int j = 0; j < ROWS; j++) value += p[j] / sum * (double)v[j * COLUMNS + c];
      worst = fmax(worst, fabs((double)o[i * COLUMNS + c] - value));
    }
  }
  return worst;
}

static void one_head(void) {
  const head h = make_head();
  for (int causal = 0; causal < 2; causal++) {
    const double seconds = [bridge runAttentionWithQ:h.q K:h.k V:h.v O:h.o seqLength:ROWS headDim:COLUMNS scale:0.25f
                                              causal:causal != 0];
    CHECK_RAN(seconds, (NSError *)nil);
    const double worst = difference(h, 0.25, causal != 0);
    CHECK(worst < 1e-6, @"differs from the formula by %g", worst);
  }
}

/* The same call in three ways gives the same bits. */
static void three_ways(void) {
  const head h = make_head();
  NSError *error = nil;
  double seconds = [bridge runAttentionWithQ:h.q K:h.k V:h.v O:h.o seqLength:ROWS headDim:COLUMNS scale:0.25f causal:YES
                                       error:&error];
  CHECK_RAN(seconds, error);
  head general = h, quantized = h;
  general.o = zeros(COUNT * sizeof(float));
  quantized.o = zeros(COUNT * sizeof(float));
  MFAForward *forward = forward_of(general);
  forward.options = [MFAAttentionOptions options];
  forward.options.softmaxScale = 0.25f;
  forward.options.causal = YES;
  seconds = [bridge runForward:forward error:&error];
  CHECK_RAN(seconds, error);
  CHECK(same_bytes(h.o, general.o), @"the general call gives other bits");
  const MFAStorage plain = MFAStorageMake(MFAPrecisionFP32);
  seconds = [bridge runQuantizedAttentionWithQ:h.q storage:plain K:h.k storage:plain V:h.v storage:plain O:quantized.o
                                    transposed:NO logsumexp:nil dimensions:MFADimensionsMake(1, 1, ROWS, ROWS, COLUMNS)
                                         scale:0.25f causal:YES record:NULL error:&error];
  CHECK_RAN(seconds, error);
  CHECK(same_bytes(h.o, quantized.o), @"the quantized entry gives other bits");
}

static void transposed(void) {
  const head h = make_head();
  NSError *error = nil;
  head t = h;
  t.q = zeros(COUNT * sizeof(float));
  t.o = zeros(COUNT * sizeof(float));
  for (int i = 0; i < ROWS; i++)
    for (int c = 0; c < COLUMNS; c++)
      ((float *)[t.q contents])[c * ROWS + i] = ((float *)[h.q contents])[i * COLUMNS + c];
  MFAStorage plain = MFAStorageMake(MFAPrecisionFP32), across = plain;
  across.transposed = YES;
  const double seconds = [bridge runAttentionWithQ:t.q storage:across K:h.k storage:plain V:h.v storage:plain O:t.o
                                        transposed:NO dimensions:MFADimensionsMake(1, 1, ROWS, ROWS, COLUMNS)
                                             scale:0.25f causal:NO error:&error];
  CHECK_RAN(seconds, error);
  const head mixed = {h.q, h.k, h.v, t.o};
  const double worst = difference(mixed, 0.25, NO);
  CHECK(worst < 1e-6, @"differs from the formula by %g", worst);
}

/* Rounding and back stays within half a step of every granularity; what is reported is what is found. */
static void quantization(void) {
  typedef struct kind {
    MFAGranularity granularity;
    NSUInteger block_rows;
  } kind;
  const kind kinds[] = {
      {MFAGranularityTensor, 0}, {MFAGranularityRow, 0}, {MFAGranularityBlock, 8}, {MFAGranularityChannel, 16}};
  const MFAPrecision precisions[] = {MFAPrecisionINT8, MFAPrecisionINT4};
  MFATensor *source = matrix(numbers(COUNT, 9));
  for (int i = 0; i < 8; i++) {
    const kind k = kinds[i % 4];
    const double largest = i < 4 ? 127.0 : 7.0;
    mfa_quantization_error report = {0};
    NSError *error = nil;
    MFATensor *rounded = [bridge tensorByQuantizing:source precision:precisions[i / 4] granularity:k.granularity
                                          blockRows:k.block_rows report:&report error:&error];
    CHECK(rounded != nil, @"not quantized: %@", error);
    if (rounded == nil) continue;
    MFATensor *back = matrix(zeros(COUNT * sizeof(float)));
    CHECK_RAN([bridge dequantize:rounded into:back error:&error], error);
    double worst = 0.0;
    const float *found = [back.buffer contents], *given = [source.buffer contents];
    for (int j = 0; j < COUNT; j++) worst = fmax(worst, fabs((double)found[j] - (double)given[j]));
    /* The numbers are within 1, so no scale is above 1 / largest. */
    CHECK(worst <= 0.5001 / largest, @"granularity %d: an error of %g", k.granularity, worst);
    CHECK(worst > 0.0 && fabs(worst - report.max_abs) <= 1e-6, @"granularity %d: found an error of %g, reported %g",
          k.granularity, worst, report.max_abs);
  }
}

static void options(void) {
  MFAAttentionOptions *o = [MFAAttentionOptions options];
  CHECK(o.flags == 0 && !o.causal && o.windowLeft == -1 && o.windowRight == -1, @"options are not the defaults");
  o.softmaxScale = 2.0f;
  o.causal = YES;
  o.windowLeft = 3;
  CHECK(o.flags == (MFA_OPTION_SCALE | MFA_OPTION_CAUSAL | MFA_OPTION_WINDOW), @"flags are %u", o.flags);
  CHECK(o.windowRight == -1, @"a window to the left has ended on the right at %lld", (long long)o.windowRight);
  o.causal = NO;
  CHECK(o.flags == (MFA_OPTION_SCALE | MFA_OPTION_WINDOW) && !o.causal, @"flags are %u", o.flags);
}

static void plans(void) {
  NSError *error = nil;
  uint64_t bytes = UINT64_MAX;
  MFAForward *forward = forward_of(make_head());
  NSString *plan = [bridge explainForward:forward error:&error];
  CHECK([plan rangeOfString:@": "].location != NSNotFound, @"the plan is \"%@\": %@", plan, error);
  CHECK([bridge getWorkspaceSize:&bytes ofForward:forward error:&error] && bytes < 1u << 30, @"takes %llu bytes: %@",
        (unsigned long long)bytes, error);
}

static void device_and_threads(void) {
  NSError *error = nil;
  NSArray *devices = [MTLCopyAllDevices() autorelease];
  BOOL known = NO;
  for (id<MTLDevice> one in devices) known = known || [[one name] isEqualToString:[device name]];
  CHECK(known, @"the default device is not among %@", devices);
  CHECK([[bridge deviceName] length] > 0, @"the device has no name");
  /* Kind, vendor and backend are the driver's; nothing is guessed from the name. */
  const BOOL is_cpu = [[bridge deviceBackend] isEqualToString:@"cpu"];
  CHECK(is_cpu || [[bridge deviceBackend] isEqualToString:@"metal"], @"the backend is \"%@\"", [bridge deviceBackend]);
  CHECK(!is_cpu || [bridge deviceKind] == MFADeviceKindCPU, @"the processor is of kind %d", [bridge deviceKind]);
  int32_t kind = 0;
  char vendor[64];
  CHECK(mfa_device_kind(0, &kind) == MFA_SUCCESS && kind == [bridge deviceKind], @"the kind is %d, expected %d",
        [bridge deviceKind], kind);
  CHECK(mfa_device_vendor(0, vendor, sizeof vendor, NULL) == MFA_SUCCESS &&
            [[bridge deviceVendor] isEqualToString:[NSString stringWithUTF8String:vendor]],
        @"the vendor is \"%@\"", [bridge deviceVendor]);
  CHECK([bridge setThreadCount:2 error:&error], @"cannot set threads: %@", error);
  CHECK(!is_cpu || [bridge threadCount] == 2, @"has %lu threads, expected 2",
        (unsigned long)[bridge threadCount]);
  CHECK([bridge setThreadCount:0 error:&error] && [bridge threadCount] >= 1, @"cannot set threads back: %@", error);
}

void test_calls(void) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  one_head();
  three_ways();
  transposed();
  quantization();
  options();
  plans();
  device_and_threads();
  [pool release];
}
