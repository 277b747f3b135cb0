/* What SPDK has only in a form that Rust cannot call. */
#ifndef POLLDM_SHIM_H
#define POLLDM_SHIM_H

#include <spdk/log.h>

/* Takes one line of SPDK's log: its level, and the text without the newline. Called on any thread. */
typedef void (*polldm_log_line)(int level, const char *text);

/* Sends SPDK's log lines to `line`. Before SPDK is started. */
void polldm_log_to(polldm_log_line line);

/* The callback for spdk_app_opts.log: its arguments end in a va_list, which Rust has no stable name for. */
void polldm_log(int level, const char *file, const int line, const char *func, const char *format, va_list args);

#endif
