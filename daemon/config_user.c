/* SPDX-License-Identifier: MIT */
/* config_user.c: who may come, and with which weight: [user NAME] and [group NAME] in the file. */
#include "daemon/config.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#define USER "user "
#define GROUP "group "

static int fail(struct config_error *ret_error, const char *format, const char *text)
	__attribute__((format(printf, 2, 0)));

static int fail(struct config_error *ret_error, const char *format, const char *text)
{
	snprintf(ret_error->text, sizeof(ret_error->text), format, text);
	return -EINVAL;
}

/* A number is an id, whether the system knows it or not: containers bring their own. */
static bool id_parse(const char *name, uint32_t *ret_id)
{
	char *end;

	if (name[0] < '0' || name[0] > '9')
		return false;
	errno = 0;
	const unsigned long long id = strtoull(name, &end, 10);
	/* The greatest stands for none in the system's own calls. */
	if (errno != 0 || *end != '\0' || id >= UINT32_MAX)
		return false;
	*ret_id = (uint32_t)id;
	return true;
}

static int id_find(bool is_group, const char *name, uint32_t *ret_id, struct config_error *error)
{
	if (id_parse(name, ret_id))
		return 0;
	if (is_group) {
		const struct group *group = getgrnam(name);
		if (group == NULL)
			return fail(error, "there is no group '%.64s'", name);
		*ret_id = group->gr_gid;
		return 0;
	}
	const struct passwd *user = getpwnam(name);
	if (user == NULL)
		return fail(error, "there is no user '%.64s'", name);
	*ret_id = user->pw_uid;
	return 0;
}

bool config_user_section(const char *section, bool *ret_is_group, const char **ret_name)
{
	const bool is_user = strncmp(section, USER, strlen(USER)) == 0;

	*ret_is_group = strncmp(section, GROUP, strlen(GROUP)) == 0;
	if (!is_user && !*ret_is_group)
		return false;
	*ret_name = section + (is_user ? strlen(USER) : strlen(GROUP));
	return true;
}

/* The record of a user or a group, a new one if there is none. */
static int find(struct config *config, bool is_group, const char *name, struct config_user **ret,
	struct config_error *error)
{
	uint32_t id = 0;
	int r = id_find(is_group, name, &id, error);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < config->n_users; i++) {
		*ret = &config->users[i];
		if ((*ret)->is_group == is_group && (*ret)->id == id)
			return 0;
	}
	if (config->n_users == CONFIG_MAX_USERS)
		return fail(
			error, "%s: there are more users and groups than gpuqd has room for", name);
	*ret = &config->users[config->n_users++];
	**ret = (struct config_user){.is_group = is_group, .id = id, .weight = 1};
	return 0;
}

static int weight_parse(const char *value, uint32_t *ret_weight)
{
	char *end;
	const unsigned long long weight = strtoull(value, &end, 10);

	if (value[0] < '0' || value[0] > '9' || *end != '\0' || weight < 1 ||
		weight > CONFIG_MAX_WEIGHT)
		return -EINVAL;
	*ret_weight = (uint32_t)weight;
	return 0;
}

int config_user_set(struct config *config, bool is_group, const char *name, const char *key,
	const char *value, struct config_error *error)
{
	struct config_user *u;
	int r = find(config, is_group, name, &u, error);

	if (r < 0)
		return r;
	if (strcmp(key, "weight") == 0)
		return weight_parse(value, &u->weight) == 0
			? 0
			: fail(error, "weight is '%.64s', but must be a number from 1 to 1000",
				  value);
	if (strcmp(key, "admin") != 0)
		return fail(
			error, "a user or a group has no key '%.64s', only weight and admin", key);
	u->admin = strcmp(value, "yes") == 0;
	return u->admin || strcmp(value, "no") == 0
		? 0
		: fail(error, "admin is '%.64s', but must be yes or no", value);
}

const struct config_user *config_user_find(
	const struct config *config, uint32_t uid, const uint32_t *gids, uint32_t n_gids)
{
	for (uint32_t i = 0; i < config->n_users; i++) {
		if (!config->users[i].is_group && config->users[i].id == uid)
			return &config->users[i];
	}
	for (uint32_t i = 0; i < config->n_users; i++) {
		for (uint32_t k = 0; config->users[i].is_group && k < n_gids; k++) {
			if (config->users[i].id == gids[k])
				return &config->users[i];
		}
	}
	return NULL;
}

bool config_has_admins(const struct config *config)
{
	bool any = false;

	for (uint32_t i = 0; i < config->n_users; i++)
		any |= config->users[i].admin;
	return any;
}

void config_users_print(const struct config *config, FILE *out)
{
	for (uint32_t i = 0; i < config->n_users; i++) {
		const struct config_user *u = &config->users[i];

		fprintf(out, "[%s%u]\nweight = %u\nadmin = %s\n", u->is_group ? GROUP : USER, u->id,
			u->weight, u->admin ? "yes" : "no");
	}
}
