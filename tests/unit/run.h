/* The end of every unit test program. */
#ifndef ANTIPODE_TESTS_UNIT_RUN_H
#define ANTIPODE_TESTS_UNIT_RUN_H
#include <check.h>

/* Runs the suite and frees it; for main to return. CK_VERBOSITY=verbose names every test. */
static inline int run_suite(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

#endif
