#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "shim.h"

static polldm_log_line g_line;

void
polldm_log_to(polldm_log_line line)
{
	g_line = line;
}

void
polldm_log(int level, const char *file, const int line, const char *func, const char *format, va_list args)
{
	/* SPDK cuts its own lines at the same length. */
	char text[1024];
	size_t length;

	(void)file;
	(void)line;
	(void)func;
	vsnprintf(text, sizeof(text), format, args);
	length = strlen(text);
	while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r')) {
		text[--length] = '\0';
	}
	if (g_line != NULL && length > 0) {
		g_line(level, text);
	}
}
