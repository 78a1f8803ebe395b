/* The results of a language from the driver, in the files that tests/cross compares: see tests/cross/README.md. */
#ifndef RESULTS_H
#define RESULTS_H

#include "runner.h"

typedef struct results results;

/* Makes results.txt and results.bin in a folder that exists. Failure, here and below, ends the program. */
results* results_open(const char* folder, const char* device);

/* A call of a case: forward, backward, quantize or dequantize; and what it wrote, if it succeeded. */
void results_add(results* to, live_case* live, const char* call, int32_t status, const char* message);

void results_close(results* of);

#endif
