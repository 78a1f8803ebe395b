/* What the vectors cannot say: handles and structs that are wrong. */
#ifndef BAD_INPUT_H
#define BAD_INPUT_H

#include "driver.h"

/* Prints a line for every failure; counts. What needs training is skipped where the driver does not support it. */
void bad_input(const driver* api, int* passed, int* failed, int* skipped);

#endif
