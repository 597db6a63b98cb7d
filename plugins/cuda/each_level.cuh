// EACH_LEVEL(X) writes X(0), X(1), ... X(LEVELS - 1): a kernel has one pointer argument per feature level.
#pragma once

#define EACH_LEVEL_1(X) X(0)
#define EACH_LEVEL_2(X) EACH_LEVEL_1(X), X(1)
#define EACH_LEVEL_3(X) EACH_LEVEL_2(X), X(2)
#define EACH_LEVEL_4(X) EACH_LEVEL_3(X), X(3)
#define EACH_LEVEL_5(X) EACH_LEVEL_4(X), X(4)
#define EACH_LEVEL_6(X) EACH_LEVEL_5(X), X(5)
#define EACH_LEVEL_7(X) EACH_LEVEL_6(X), X(6)
#define EACH_LEVEL_8(X) EACH_LEVEL_7(X), X(7)
#define JOIN_TEXT(a, b) a##b
#define JOIN(a, b) JOIN_TEXT(a, b)
#define EACH_LEVEL JOIN(EACH_LEVEL_, LEVELS)
