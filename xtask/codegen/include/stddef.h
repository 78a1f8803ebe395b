#pragma once
#define NULL ((void*)0)
typedef __SIZE_TYPE__ size_t;
