/* Calls that the vectors cannot describe: invalid handles and structs. */
#ifndef BAD_INPUT_H
#define BAD_INPUT_H

#include "driver.h"

/* Prints a line for every failure; counts. What needs training is skipped where the driver does not support it. */
void bad_input(const driver* api, int* passed, int* failed, int* skipped);

#endif
