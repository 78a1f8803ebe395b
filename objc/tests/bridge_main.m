/* Tests of MFABridge: its results, its refusals, the objects it keeps alive. Ends with `N passed, M failed`. */
#import "bridge_test.h"

#include <string.h>

id<MTLDevice> device;
MFABridge *bridge;
static int passed, failed;

void check(BOOL right, const char *function, int line, NSString *what) {
  if (right) {
    passed++;
    return;
  }
  failed++;
  printf("%s, line %d: %s\n", function, line, [what UTF8String]);
}

void check_refused(double seconds, NSError *error, int32_t status, NSString *words, const char *function, int line) {
  check(isnan(seconds), function, line, [NSString stringWithFormat:@"returned %g, expected NaN", seconds]);
  check([error.domain isEqualToString:MFAErrorDomain] && error.code == status, function, line,
        [NSString stringWithFormat:@"the error is %@, expected code %d", error, status]);
  check([[error localizedDescription] rangeOfString:words].location != NSNotFound, function, line,
        [NSString stringWithFormat:@"the message is \"%@\", expected one with \"%@\"", [error localizedDescription],
                                   words]);
}

id<MTLBuffer> zeros(NSUInteger bytes) {
  return [[device newBufferWithLength:bytes options:MTLResourceStorageModeShared] autorelease];
}

id<MTLBuffer> numbers(NSUInteger count, uint32_t seed) {
  id<MTLBuffer> buffer = zeros(count * sizeof(float));
  float *data = [buffer contents];
  for (NSUInteger i = 0; i < count; i++) {
    seed = seed * 1664525u + 1013904223u;
    data[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
  }
  return buffer;
}

head make_head(void) {
  const head result = {numbers(COUNT, 1), numbers(COUNT, 2), numbers(COUNT, 3), zeros(COUNT * sizeof(float))};
  return result;
}

MFATensor *matrix(id<MTLBuffer> buffer) {
  return [MFATensor tensorWithBuffer:buffer precision:MFAPrecisionFP32 shape:MFAShapeMake(1, 1, ROWS, COLUMNS)];
}

MFAForward *forward_of(head h) {
  MFAForward *forward = [[[MFAForward alloc] init] autorelease];
  forward.query = matrix(h.q);
  forward.key = matrix(h.k);
  forward.value = matrix(h.v);
  forward.output = matrix(h.o);
  return forward;
}

BOOL same_bytes(id<MTLBuffer> a, id<MTLBuffer> b) {
  return [a length] == [b length] && memcmp([a contents], [b contents], [a length]) == 0;
}

int main(void) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  NSError *error = nil;
  device = MTLCreateSystemDefaultDevice();
  bridge = [[MFABridge alloc] initWithDevice:device error:&error];
  CHECK(bridge != nil, @"no bridge: %@", error);
  if (bridge != nil) {
    test_errors();
    test_calls();
    test_training();
    test_lifetimes();
  }
  [bridge release];
  [device release];
  [pool release];
  printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
