/*
 * Runs causal attention on one head, checks it against the plain formula in double precision, and times it:
 *
 *   attention [ROWS [COLUMNS [RUNS]]]
 */
#include "example.h"

static NSUInteger argument(int argc, char **argv, int index, NSUInteger otherwise) {
  const long number = argc > index ? strtol(argv[index], NULL, 10) : (long)otherwise;
  return number < 0 ? 0 : (NSUInteger)number;
}

int main(int argc, char **argv) {
  @autoreleasepool {
    const NSUInteger rows = argument(argc, argv, 1, 1024), columns = argument(argc, argv, 2, 64);
    const NSUInteger runs = argument(argc, argv, 3, 10);
    const float scale = 1.0f / sqrtf((float)columns);
    NSError *error = nil;

    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    MFABridge *bridge = [[MFABridge alloc] initWithDevice:device error:&error];
    if (bridge == nil) stop(error);
    id<MTLBuffer> q = random_floats(device, rows * columns, 1), k = random_floats(device, rows * columns, 2);
    id<MTLBuffer> v = random_floats(device, rows * columns, 3), o = floats(device, rows * columns);

    double fastest = INFINITY;
    for (NSUInteger run = 0; run <= runs; run++) { /* the first one warms up */
      const double seconds = [bridge runAttentionWithQ:q K:k V:v O:o seqLength:rows headDim:columns scale:scale
                                                causal:YES error:&error];
      if (isnan(seconds)) stop(error);
      if (run > 0) fastest = fmin(fastest, seconds);
    }

    double squares = 0.0, power = 0.0;
    compare([q contents], [k contents], [v contents], [o contents], rows, rows, columns, scale, YES, &squares, &power);
    const double relative = sqrt(squares / power);
    /* Two products of `columns` terms for each pair of a row and a key that it sees. */
    const double operations = 2.0 * (double)columns * (double)rows * ((double)rows + 1.0);
    printf("%s: one head of %lu x %lu, causal: %.3f ms at best of %lu runs (%.1f GFLOP/s), relative RMSE %.1e\n",
           [[bridge deviceName] UTF8String], (unsigned long)rows, (unsigned long)columns, 1e3 * fastest,
           (unsigned long)runs, operations / fastest * 1e-9, relative);

#if !__has_feature(objc_arc)
    [q release];
    [k release];
    [v release];
    [o release];
    [bridge release];
    [device release];
#endif
    return relative < 1e-5 ? 0 : 1;
  }
}
