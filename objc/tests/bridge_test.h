/* Shared by the tests of MFABridge: counting, and one head of numbers to call it on. */
#import "MFABridge.h"

#include <math.h>
#include <stdio.h>

/* Counts a check, and prints what was wrong. */
#define CHECK(right, ...) check((right), __func__, __LINE__, [NSString stringWithFormat:__VA_ARGS__])
void check(BOOL right, const char *function, int line, NSString *what);

/* A failed call: NaN, an error of that status whose message has these words. */
void check_refused(double seconds, NSError *error, int32_t status, NSString *words, const char *function, int line);
#define CHECK_REFUSED(seconds, error, status, words) \
  check_refused((seconds), (error), (status), (words), __func__, __LINE__)

/* A call that worked: finite seconds, none of them negative. */
#define CHECK_RAN(seconds, error) \
  CHECK((seconds) >= 0.0 && isfinite(seconds), @"returned %g: %@", (seconds), [(error) localizedDescription])

enum { ROWS = 37, COLUMNS = 24, COUNT = ROWS * COLUMNS };

/* Q, K, V with numbers that differ, and O, in FP32. */
typedef struct head {
  id<MTLBuffer> q, k, v, o;
} head;

extern id<MTLDevice> device;
extern MFABridge *bridge;

/* Autoreleased. */
id<MTLBuffer> zeros(NSUInteger bytes);
id<MTLBuffer> numbers(NSUInteger count, uint32_t seed);
head make_head(void);
MFATensor *matrix(id<MTLBuffer> buffer);
MFAForward *forward_of(head h);
BOOL same_bytes(id<MTLBuffer> a, id<MTLBuffer> b);

/* The suites. */
void test_errors(void);
void test_calls(void);
void test_training(void);
void test_lifetimes(void);
