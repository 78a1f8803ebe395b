/* What main.swift takes from C: the contract, and the runner that C's conformance vectors have. */
#include "mfa.h"
#include "runner.h"
