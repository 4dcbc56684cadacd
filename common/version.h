/* The version that --version, antipode_build_info and logs report; a build may define it. */
#ifndef ANTIPODE_COMMON_VERSION_H
#define ANTIPODE_COMMON_VERSION_H

#ifndef ANTIPODE_VERSION
#define ANTIPODE_VERSION "0.1.0"
#endif

#endif
