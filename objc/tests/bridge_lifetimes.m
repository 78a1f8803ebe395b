#import "bridge_test.h"

/* Calls give back what they took, without waiting for a pool. */
static void calls_hold_nothing(void) {
  const head h = make_head();
  const NSUInteger before = [h.q retainCount];
  for (int i = 0; i < 100; i++)
    [bridge runAttentionWithQ:h.q K:h.k V:h.v O:h.o seqLength:ROWS headDim:COLUMNS scale:1.0f causal:NO];
  CHECK([h.q retainCount] == before, @"query is held %lu times after 100 calls, %lu before",
        (unsigned long)[h.q retainCount], (unsigned long)before);
  for (int i = 0; i < 100; i++)
    [bridge runAttentionWithQ:h.q K:nil V:h.v O:h.o seqLength:ROWS headDim:COLUMNS scale:1.0f causal:NO];
  CHECK([h.q retainCount] == before, @"query is held %lu times after 100 refusals, %lu before",
        (unsigned long)[h.q retainCount], (unsigned long)before);
}

/* A bridge keeps its device, and buffers theirs. */
static void owners(void) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  id<MTLDevice> own = MTLCreateSystemDefaultDevice();
  MFABridge *on_it = [[MFABridge alloc] initWithDevice:own];
  id<MTLBuffer> buffer = [own newBufferWithLength:64 options:MTLResourceStorageModeShared];
  [own release];
  CHECK([[buffer device] name] != nil && [buffer length] == 64 && [buffer contents] != NULL,
        @"the buffer has lost its device");
  const double seconds = [on_it runAttentionWithQ:buffer K:buffer V:buffer O:zeros(64) seqLength:4 headDim:4 scale:1.0f
                                           causal:NO];
  CHECK_RAN(seconds, (NSError *)nil);
  [on_it release];
  [buffer release];
  [pool release];
}

/* The work of one thread of several on the shared bridge. */
@interface Worker : NSObject {
 @public
  head operands;
  id<MTLBuffer> expected;
  NSConditionLock *finished;
  int wrong;
}
- (void)work:(id)nothing;
@end

@implementation Worker
- (void)work:(id)nothing {
  (void)nothing;
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  for (int i = 0; i < 50; i++) {
    NSError *error = nil;
    const double seconds = [bridge runAttentionWithQ:operands.q K:operands.k V:operands.v O:operands.o seqLength:ROWS
                                             headDim:COLUMNS scale:0.5f causal:YES error:&error];
    if (!(seconds >= 0.0) || !same_bytes(operands.o, expected)) wrong++;
    /* The error of a thread is its own. */
    const double refused = [bridge runAttentionWithQ:operands.q K:operands.k V:operands.v O:operands.o
                                           seqLength:ROWS headDim:600 scale:0.5f causal:YES error:&error];
    if (!isnan(refused) || error.code != MFA_ERROR_INVALID_DIMENSIONS) wrong++;
  }
  [pool release];
  [finished lock];
  [finished unlockWithCondition:[finished condition] + 1];
}
@end

static void several_threads(void) {
  enum { THREADS = 4 };
  const head h = make_head();
  [bridge runAttentionWithQ:h.q K:h.k V:h.v O:h.o seqLength:ROWS headDim:COLUMNS scale:0.5f causal:YES];
  NSConditionLock *finished = [[[NSConditionLock alloc] initWithCondition:0] autorelease];
  Worker *workers[THREADS];
  for (int i = 0; i < THREADS; i++) {
    workers[i] = [[[Worker alloc] init] autorelease];
    workers[i]->operands = make_head();
    workers[i]->expected = h.o;
    workers[i]->finished = finished;
    [NSThread detachNewThreadSelector:@selector(work:) toTarget:workers[i] withObject:nil];
  }
  [finished lockWhenCondition:THREADS];
  [finished unlock];
  for (int i = 0; i < THREADS; i++)
    CHECK(workers[i]->wrong == 0, @"thread %d had %d wrong results", i, workers[i]->wrong);
}

void test_lifetimes(void) {
  NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
  calls_hold_nothing();
  owners();
  several_threads();
  [pool release];
}
