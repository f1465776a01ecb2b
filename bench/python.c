/* SPDX-License-Identifier: MIT */
/* python.c: runs a program that is compiled in with the user's Python, and takes its JSON. */
#include "bench/bench.h"

#define MAX_ARGUMENTS 12

json_t *python_measure(
	const struct bench *b, const char *what, const char *program, const char *const *arguments)
{
	const char *argv[MAX_ARGUMENTS + 4] = {b->python, "-c", program};

	for (int i = 0; i < MAX_ARGUMENTS && arguments[i] != NULL; i++)
		argv[3 + i] = arguments[i];
	progress("%s", what);
	json_t *answer = child_json(argv);
	const char *reason = json_string_value(json_object_get(answer, "error"));

	if (answer == NULL)
		complain(
			0, "no comparison with %s: %s did not run (see --python)", what, b->python);
	else if (reason != NULL)
		complain(0, "no comparison with %s: %s (see --python)", what, reason);
	else
		return answer;
	json_decref(answer);
	return NULL;
}
