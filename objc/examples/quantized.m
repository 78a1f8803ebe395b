/*
 * Attention on keys and values stored as INT8 and INT4, one scale per row: their memory, their rounding error, and the
 * output's error. 8 query heads share 2 key heads, which are not copied.
 */
#include "example.h"

enum { HEADS = 8, KEY_HEADS = 2, ROWS = 64, KEY_ROWS = 512, COLUMNS = 64 };

typedef struct kind {
  const char *name;
  MFAPrecision precision;
  double bound; /* of the output's relative RMSE */
} kind;

static MFATensor *view(id<MTLBuffer> buffer, uint64_t heads, uint64_t rows) {
  return [MFATensor tensorWithBuffer:buffer precision:MFAPrecisionFP32 shape:MFAShapeMake(1, heads, rows, COLUMNS)];
}

static NSUInteger bytes(MFATensor *quantized) {
  return [quantized.buffer length] + [quantized.quantization.scaleBuffer length];
}

int main(void) {
  @autoreleasepool {
    static const kind kinds[] = {{"INT8", MFAPrecisionINT8, 0.02}, {"INT4", MFAPrecisionINT4, 0.25}};
    const NSUInteger head = ROWS * COLUMNS, key_head = KEY_ROWS * COLUMNS;
    const double scale = 1.0 / sqrt((double)COLUMNS);
    NSError *error = nil;
    int failures = 0;

    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    MFABridge *bridge = [[MFABridge alloc] initWithDevice:device error:&error];
    if (bridge == nil) stop(error);
    id<MTLBuffer> q = random_floats(device, HEADS * head, 1), k = random_floats(device, KEY_HEADS * key_head, 2);
    id<MTLBuffer> v = random_floats(device, KEY_HEADS * key_head, 3), o = floats(device, HEADS * head);

    for (int i = 0; i < 2; i++) {
      mfa_quantization_error of_keys, of_values;
      MFAForward *forward = [[MFAForward alloc] init];
      forward.query = view(q, HEADS, ROWS);
      forward.output = view(o, HEADS, ROWS);
      forward.key = [bridge tensorByQuantizing:view(k, KEY_HEADS, KEY_ROWS) precision:kinds[i].precision
                                   granularity:MFAGranularityRow blockRows:0 report:&of_keys error:&error];
      if (forward.key == nil) stop(error);
      forward.value = [bridge tensorByQuantizing:view(v, KEY_HEADS, KEY_ROWS) precision:kinds[i].precision
                                     granularity:MFAGranularityRow blockRows:0 report:&of_values error:&error];
      if (forward.value == nil) stop(error);
      const double seconds = [bridge runForward:forward error:&error];
      if (isnan(seconds)) stop(error);

      double squares = 0.0, power = 0.0;
      for (int h = 0; h < HEADS; h++) {
        const NSUInteger group = (NSUInteger)h / (HEADS / KEY_HEADS) * key_head, own = (NSUInteger)h * head;
        compare((float *)[q contents] + own, (float *)[k contents] + group, (float *)[v contents] + group,
                (float *)[o contents] + own, ROWS, KEY_ROWS, COLUMNS, scale, NO, &squares, &power);
      }
      const double relative = sqrt(squares / power);
      printf("%s keys and values: %.2fx the bytes of FP32; "
             "relative RMSE of keys %.4f, values %.4f, output %.4f; %.3f ms\n",
             kinds[i].name, (double)(bytes(forward.key) + bytes(forward.value)) / (double)([k length] + [v length]),
             of_keys.relative_rmse, of_values.relative_rmse, relative, 1e3 * seconds);
      if (!(relative < kinds[i].bound)) failures++;
#if !__has_feature(objc_arc)
      [forward release];
#endif
    }

#if !__has_feature(objc_arc)
    [q release];
    [k release];
    [v release];
    [o release];
    [bridge release];
    [device release];
#endif
    return failures;
  }
}
