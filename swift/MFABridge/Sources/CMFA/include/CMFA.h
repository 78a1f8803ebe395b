/* The contract for Swift: the one header, and a message per thread, which Swift has no storage for. */
#ifndef CMFA_H
#define CMFA_H

#include "../../../../../crates/mfa-sys/include/mfa.h"

/* Keeps `message` for the calling thread, cut to what there is room for. */
__attribute__((visibility("hidden"))) void cmfa_set_message(const char* message, size_t length);

/* The calling thread's message: NUL-terminated, valid until the thread keeps another one; "" at first. */
__attribute__((visibility("hidden"))) const char* cmfa_message(void);

#endif
