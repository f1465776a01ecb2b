/* SPDX-License-Identifier: MIT */
/*
 * control.h: the control process of gpuqd. One thread and one io_uring: it accepts connections,
 * speaks shm/proto.h with clients (session.c), makes their channels and takes them back
 * (control_channel.c), keeps the accounts of device buffers (control_buffer.c), of pipelines
 * (control_pipeline.c) and of language models (control_model.c, control_wanted.c), keeps a device
 * process running (control_device.c) and moving (control_watch.c) and replaces it when asked to
 * (control_restart.c), knows what that has captured (control_graph.c), tells the service manager
 * (control_service.c) and publishes what happens (control_stats.c). It waits in one place only, for
 * completions of the io_uring, and never touches the rings of a channel.
 *
 * Every operation on the ring carries in its user data what it is for and the index of the record
 * it belongs to. A record is used again only when all its operations have completed, so the
 * index needs no generation.
 *
 *	session   FREE -> HANDSHAKE -> LIVE -> CLOSING -> FREE
 *	          CLOSING: shut down; waits for its operations and its channels
 *	channel   FREE -> ALLOCATING -> ADDING -> OPEN -> REMOVING -> PUNCHING -> FREE
 *	          ALLOCATING, PUNCHING: pages come or go in the background (io_uring fallocate)
 *	          ADDING, REMOVING: the device process has been asked
 *	buffer    FREE -> ALLOCATING -> LIVE -> REMOVING -> PUNCHING -> FREE
 *	          ALLOCATING, REMOVING: the device process has been asked
 *	          its holders come and go: see struct holder
 *	pipeline  FREE -> ADDING -> OPEN -> REMOVING -> FREE
 *	          ADDING, REMOVING: the device process has been asked
 *	model     FREE -> LOADING -> READY -> UNLOADING -> FREE
 *	          LOADING -> FAILED; READY -> LOADING: its device process has ended
 *	device    DOWN -> STARTING -> READY -> (ended) -> STARTING ...
 */
#ifndef GPUQ_DAEMON_CONTROL_H
#define GPUQ_DAEMON_CONTROL_H

#include "daemon/config.h"
#include "daemon/devlink.h"
#include "daemon/listen.h"
#include "daemon/service.h"
#include "shm/clock.h"
#include "shm/proto.h"
#include "shm/stats.h"
#include "shm/wire.h"

#include <liburing.h>
#include <stdbool.h>
#include <sys/queue.h>
#include <sys/signalfd.h>
#include <sys/types.h>

/* What an operation on the ring is for. */
enum op_kind {
	OP_IGNORE,	 /* nobody waits for its completion */
	OP_ACCEPT,	 /* index: 1 for the administrative socket */
	OP_ACCEPT_READY, /* a connection waits while there are no descriptors; index as above */
	OP_SIGNAL,
	OP_TICK,
	OP_WATCH,
	OP_HANDSHAKE,	 /* the oldest handshake's deadline */
	OP_DRAIN,	 /* the drain's deadline */
	OP_WATCHDOG,	 /* the service manager is to be told that we live */
	OP_RECV,	 /* index: session */
	OP_PIDFD,	 /* index: session */
	OP_ALLOCATE,	 /* index: channel */
	OP_PUNCH,	 /* index: channel */
	OP_PUNCH_BUFFER, /* index: buffer */
	OP_LINK_RECV,
	OP_LINK_ROOM,
	OP_RESTART, /* index: number of the deadline */
};

struct control;

/*
 * Something about which the device process is owed messages. `send` sends the next one: 1: it has
 * gone, ask again; 0: nothing is owed; or a negative errno.
 */
struct owed {
	int (*send)(struct control *c, struct owed *owed);
	bool queued; /* in device.outbox */
	TAILQ_ENTRY(owed) in_outbox;
};
TAILQ_HEAD(outbox, owed);

enum channel_state {
	CHANNEL_FREE = 0,
	CHANNEL_ALLOCATING,
	CHANNEL_ADDING,
	CHANNEL_OPEN,
	CHANNEL_REMOVING,
	CHANNEL_PUNCHING,
};

struct channel {
	enum channel_state state;
	uint32_t index, generation;
	uint32_t serial;	   /* of the request that is to be answered */
	bool answer;		   /* MSG_CLOSE waits for its answer */
	bool closing;		   /* reclaim it as soon as its state allows */
	bool add, recover, remove; /* owed to the device process */
	struct owed owed;
	int segment_fd, eventfd, pipe_read, pipe_write;
	uint32_t sq_entries, cq_entries, priority, abi;
	uint64_t arena_bytes, segment_bytes, start;
	struct session *session;
	LIST_ENTRY(channel) of_session;
	TAILQ_ENTRY(channel) in_list; /* control.free_channels */
};

enum buffer_state {
	BUFFER_FREE = 0,
	BUFFER_ALLOCATING,
	BUFFER_LIVE,
	BUFFER_REMOVING,
	BUFFER_PUNCHING
};

/* A device buffer. Its handle on the wire is its generation and its index. */
struct buffer {
	enum buffer_state state;
	uint32_t index, generation; /* of 16 bits, never 0 */
	bool lost;		    /* its device process has ended */
	uint32_t form;		    /* enum msg_buffer_form */
	bool told;		    /* the device process is not owed the next message about it */
	struct owed owed;
	uint64_t bytes, whole_bytes;
	int fd; /* MSG_BUFFER_FD */
	uint8_t ipc[64];
	char uuid[64], driver[32];
	uid_t uid;	       /* in whose share it counts */
	struct session *owner; /* likewise; NULL when that has given it up: then in c->orphans */
	uint32_t n_holders;
	LIST_HEAD(, holder) holders;
	TAILQ_ENTRY(buffer) in_list; /* control.free_buffers, or .orphans */
};
TAILQ_HEAD(buffer_list, buffer);

/*
 * What a session has of a buffer. JOINING and LEAVING: the device process has been asked, and the
 * request `serial` is to be answered.
 */
enum holder_state { HOLDER_GRANTED, HOLDER_JOINING, HOLDER_HAS, HOLDER_LEAVING };
struct holder {
	enum holder_state state;
	uint32_t serial;
	bool closing; /* its session is: goes as soon as its state allows, without an answer */
	bool told;    /* likewise */
	struct owed owed;
	struct session *session;
	struct buffer *buffer;
	LIST_ENTRY(holder) of_session, of_buffer;
};

enum registration_state {
	REGISTRATION_FREE = 0,
	REGISTRATION_ADDING,   /* the device process has been asked; the client waits */
	REGISTRATION_OPEN,     /* the client has the handle */
	REGISTRATION_REMOVING, /* the device process waits for what is in flight */
};

/* A pipeline of a client. */
struct registration {
	enum registration_state state;
	uint32_t index, generation; /* both are in its handle */
	uint32_t serial;	    /* of the request that is to be answered */
	bool answer;		    /* MSG_PIPELINE_CLOSE waits for its answer */
	bool closing;		    /* reclaim it as soon as its state allows */
	bool add, remove;	    /* owed to the device process */
	struct owed owed;
	void *definition; /* struct wire_pipeline and what follows; checked */
	uint32_t bytes;	  /* of it */
	struct session *session;
	LIST_ENTRY(registration) of_session;
	TAILQ_ENTRY(registration) in_list; /* control.free_registrations */
};
TAILQ_HEAD(registration_list, registration);

/* A definition of which pieces have come. */
struct draft {
	uint8_t *bytes; /* [total], NULL: there is none */
	uint32_t total, have;
};

/* A language model. Its states are those of the wire, 0 when the record is free. */
struct served_model {
	uint32_t state;		    /* enum msg_model_state */
	uint32_t index, generation; /* both are in its handle */
	char name[GPUQ_NAME_MAX];
	int dir_fd;
	bool int8, deterministic;
	bool load, remove; /* owed to the device process */
	bool force;	   /* of `remove` */
	bool wanted;	   /* by the configuration: it goes when that no longer names it */
	bool retiring;	   /* goes as soon as it has no session */
	uint32_t n_warm;
	struct devlink_warm warm[DEVLINK_MAX_WARM];
	struct owed owed;
	uint32_t attempts; /* to load it, since it was last ready */
	int status;	   /* MSG_MODEL_FAILED: why, with a sentence */
	char why[MSG_TEXT_MAX];
	struct session *asked; /* for its end; the record may be another one's meanwhile */
	uint32_t asked_generation, serial;
};

/* A model that the configuration or the repository names. */
struct wanted_model {
	struct config_model config;
	bool dropped; /* an administrator has unloaded it: not before the next reload */
	bool told;    /* that there is no place for it */
};

enum session_state { SESSION_FREE = 0, SESSION_HANDSHAKE, SESSION_LIVE, SESSION_CLOSING };

/* Where the one message with descriptors stands that a session may have. */
enum session_fds { FDS_NONE, FDS_ASKED, FDS_SENT };

struct session {
	enum session_state state;
	uint32_t index, generation;
	int fd, pidfd; /* pidfd -1: its process cannot be watched, only its connection */
	bool admin;
	bool receiving, watching; /* operations on the ring */
	bool reset;		  /* the peer closed without reading; what it sent is still there */
	enum session_fds fds;
	uint32_t fds_messages; /* sent since its queue was last seen empty */
	uint32_t abi;
	pid_t pid;
	uid_t uid;
	uint32_t weight;      /* of its user: see share.h */
	uint64_t deadline_ns; /* of the handshake */
	uint64_t connected_ns;
	uint64_t bytes; /* of its segments, and what else memory_take() counted */
	uint32_t n_channels, n_holders;
	char name[GPUQ_NAME_MAX];
	LIST_HEAD(, channel) channels;
	LIST_HEAD(, holder) holders;
	LIST_HEAD(, registration) registrations;
	uint32_t n_registrations;
	struct draft draft;
	TAILQ_ENTRY(session) in_list; /* control.handshakes, or .free_sessions */
	/* The packet being received; one that is too long shows as longer than this. */
	_Alignas(8) char packet[MSG_MAX];
	/* What an administrator may send with it. */
	int in_fd; /* -1: none; whoever takes it over sets that */
	struct msghdr in_header;
	struct iovec in_iov;
	_Alignas(struct cmsghdr) char in_control[CMSG_SPACE(sizeof(int))];
};

TAILQ_HEAD(session_list, session);
TAILQ_HEAD(channel_list, channel);

enum device_state { DEVICE_DOWN, DEVICE_STARTING, DEVICE_READY };

/*
 * A restart that an administrator has asked for:
 *
 *	NONE -> FINISHING -> ENDING -> STARTING -> NONE
 *	FINISHING: the device process takes nothing more and ends what it has
 *	ENDING: it has been told to end
 *	STARTING: its successor is being started, from the file on disk
 */
enum restart_state { RESTART_NONE, RESTART_FINISHING, RESTART_ENDING, RESTART_STARTING };
struct restart {
	enum restart_state state;
	int exe_fd; /* of the successor */
	uint32_t n_deadlines;
	struct __kernel_timespec deadline;
	struct session *asked; /* for its end; the record may be another one's meanwhile */
	uint32_t asked_generation, serial;
};

/* A word that changes while all is well. */
struct watched {
	uint64_t seen, since_ns;
};

enum { WATCH_DISPATCH, WATCH_LINK, WATCH_OLDEST, WATCH_REAPING, WATCHES };

#define CONTROL_CAPTURES 4096 /* the last ones, in the statistics */

#define DEVICE_MAX_DEATHS 5
#define DEVICE_MAX_PRESENT 17 /* the CPU and 16 GPUs */
#define DEVICE_DEATHS_NS (10ull * 1000000000u)

/* The device process, seen from the control process. */
struct device {
	enum device_state state;
	uint32_t index;	 /* in page and statistics */
	pid_t pid;	 /* 0: none */
	pid_t ended_pid; /* of one whose end the log has not told; 0: none */
	int ended_status;
	int link_fd; /* -1: none */
	int ledger_fd;
	int exe_fd; /* what device processes are started from */
	struct restart restart;
	const struct ledger_pulse *pulse;
	struct watched watched[WATCHES];
	uint64_t watched_ns;	      /* last look */
	bool receiving, waiting_room; /* operations on the ring */
	bool was_ready;		      /* some device process has been ready */
	bool drain;		      /* DEVLINK_DRAIN is owed */
	bool pause;		      /* DEVLINK_PAUSE is owed */
	bool captures_stopped;	      /* as an administrator wants it */
	struct owed captures;	      /* DEVLINK_CAPTURE */
	bool tell_captures;
	struct owed log; /* DEVLINK_LOG */
	bool tell_log;
	struct devlink_msg present[DEVICE_MAX_PRESENT]; /* as the first device process told */
	uint32_t n_present;
	bool start_later; /* could not be started: at the next tick */
	uint64_t epoch;
	uint64_t deaths_ns[DEVICE_MAX_DEATHS]; /* a ring of the last ones */
	uint32_t n_deaths;
	struct devlink_msg in;
	int in_fd; /* that came with it; -1: none */
	struct msghdr in_header;
	struct iovec in_iov;
	_Alignas(struct cmsghdr) char in_control[CMSG_SPACE(sizeof(int))];
	struct outbox outbox;
	char failure[224]; /* as in devlink_msg.text */
};

struct control {
	const struct config *config; /* as it is now: some of it changes when it is read again */
	struct config *taken;	     /* the same, for control_reload() */
	const struct config_source *source;
	struct io_uring ring;
	struct service service;
	char status[256]; /* that the service manager was told last */
	struct listener listener;
	int reserve_fd; /* given up to refuse a connection when there is no other descriptor */
	int signal_fd;
	struct signalfd_siginfo signal;
	bool accepting[2], accept_later[2]; /* clients, administrators */

	struct session *sessions; /* clients, then administrators */
	uint32_t n_sessions;
	struct session_list free_sessions[2];
	struct session_list handshakes; /* in the order of their deadlines */
	bool handshake_timer;

	struct channel *channels;
	struct channel_list free_channels;
	uint64_t total_bytes;	/* of all sessions and orphaned buffers */
	uint64_t segment_bytes; /* of these, in segments */
	uint64_t buffer_bytes;	/* and in buffers */
	uint32_t n_buffers;
	uint64_t max_total_bytes, max_user_bytes;
	uint32_t n_channels;
	uint64_t start_index;

	struct buffer *buffers;
	struct buffer_list free_buffers;
	struct buffer_list orphans; /* which no session accounts for */
	struct registration *registrations;
	struct registration_list free_registrations;
	uint32_t n_registrations;
	struct served_model *models; /* [max_models] */
	struct wanted_model *wanted; /* [CONFIG_MAX_MODELS] */
	uint32_t n_wanted;
	char hot_list[256]; /* path; "": none */

	struct device device;

	struct clock_line clock;
	struct wire_page *page;
	int page_fd, page_ro_fd;
	char executable[CONFIG_PATH_MAX]; /* path of the one that this process is */
	struct stats stats;
	struct recorder recorder;
	int stats_fd;
	uint64_t started_realtime_ns;
	uint64_t ticks; /* of OP_TICK */

	bool draining; /* ends when nothing is in flight or time is up */
	bool finished;
	int exit_code;
	struct __kernel_timespec tick, watch, handshake_at, drain_at, watchdog_at;
};

/*
 * Runs the control process until it ends; returns its exit code. Logs its errors. `config` is what
 * the source said, and is kept up to date when that is read again.
 */
int control_main(struct config *config, const struct config_source *source);

/* --- control.c --- */

/* A place in the ring's submission queue; never NULL. Prepare it, then tag it. */
struct io_uring_sqe *control_sqe(struct control *c);

static inline void control_tag(struct io_uring_sqe *sqe, enum op_kind kind, uint32_t index)
{
	io_uring_sqe_set_data64(sqe, (uint64_t)kind << 32 | index);
}

/* What to look at when a system call was refused in an unusual way; a clause, or "". */
const char *control_hint(int error);

/* Completes once, after that time; `after` stays until the next submission. */
void control_timeout(struct control *c, enum op_kind kind, struct __kernel_timespec *after);

/* Asks for an operation to end early; it completes with -ECANCELED, unless it was quicker. */
void control_cancel(struct control *c, enum op_kind kind, uint32_t index);

/* The device is ready for the first time: clients may come. */
void control_serve(struct control *c);

/* Lets what is in flight finish, then ends. `why` is for the log. */
void control_drain(struct control *c, const char *why);

/* The device process has nothing in flight any more. */
void control_drained(struct control *c);

/* Ends with the next round of the loop. */
void control_finish(struct control *c, int exit_code);

/* Tells all clients that it is over: they are closed. */
void control_goodbye(struct control *c, int status, const char *text);

/* --- control_service.c --- */

/* Tells the service manager how things stand, if that has changed. */
void service_show(struct control *c);

/* Tells it that gpuqd is about to end, and how long that may take. */
void service_draining(struct control *c);

/* Tells it that gpuqd lives, and does so again in time. Completion of OP_WATCHDOG. */
void service_watchdog(struct control *c);

/* SIGHUP: reads the configuration again, and uses of it what can be changed. */
void control_reload(struct control *c);

/* --- control_stats.c --- */

/* Makes the daemon page and the statistics object. Negative errno, and logs it. */
int control_publish(struct control *c);

/* Tells the flight recorder of a client. */
void control_record(struct control *c, enum recorder_kind kind, const struct session *s);

/*
 * Makes the statistics object anew when somebody has damaged it: a device process could not map
 * it. What was counted in it may be lost. Negative errno, and logs it.
 */
int control_repair_stats(struct control *c);

/* Removes the statistics object (after a clean end only). */
void control_unpublish(struct control *c);

void control_set_state(struct control *c, enum wire_state state);

/* Stopped by a signal or by a debugger. */
bool control_process_stopped(pid_t pid);

/* Once a second: heartbeat, clients that stall. */
void control_tick(struct control *c);

/* Counts something that was refused. */
void control_count_error(struct control *c, int status, const char *what, const char *text);

/* --- control_device.c --- */

/* Starts the device process. Negative errno, and logs it. */
int device_start(struct control *c);

/* SIGCHLD: the device process may have ended. */
void device_reap(struct control *c);

/* Starts a new one when process and link of the last one are both gone. */
void device_replace(struct control *c);

/* Sends what is owed to the device process, as far as there is room. */
void device_pump(struct control *c);

/* Completions of OP_LINK_RECV and OP_LINK_ROOM. */
void device_received(struct control *c, int result);
void device_has_room(struct control *c);

/*
 * Something is owed: tells the device process, now or as soon as it has room. When it is not ready,
 * nothing is remembered: a new one is told about everything by device_hand_over().
 */
void device_tell(struct control *c, struct owed *owed);

/* It is owed nothing any more. */
void device_forget(struct control *c, struct owed *owed);

/* Sends one message with up to 3 descriptors. Never waits. For the functions behind `send`. */
int device_send(struct control *c, const struct devlink_msg *m, const int *fds, uint32_t n_fds);

/* Whether a request for something on this device can be served at all; says why when not. */
int device_check_request(const struct control *c, uint32_t device, char text[MSG_TEXT_MAX]);

/* The log's levels have changed. */
void device_configure_log(struct control *c);

/* Asks the device process to finish what it has. */
void device_drain(struct control *c);

/* Closes the link and waits for the device process to end. */
void device_stop(struct control *c);

/* --- control_watch.c --- */

/* Maps what the watchdog reads, and sets c->watch, the time between its looks. Negative errno. */
int watch_create(struct control *c);

/* A look: kills a device process that is wedged; device_reap() hears of its end. */
void watch_device(struct control *c);

/* --- control_restart.c --- */

/* Finds the executable that this process was started from. Negative errno, and logs it. */
int restart_create(struct control *c);

/* MSG_ADMIN_RESTART. */
void restart_request(struct control *c, struct session *s, const void *msg);

/* The device process has nothing in flight any more. */
void restart_drained(struct control *c);

/* Completion of OP_RESTART. */
void restart_deadline(struct control *c, uint32_t number);

/*
 * The device process is gone. True when that was asked for, or if its successor did not begin:
 * then it says nothing about how device processes fare.
 */
bool restart_device_gone(struct control *c);

/* A device process is ready. */
void restart_device_ready(struct control *c);

/* --- session.c --- */

int session_table_create(struct control *c);

/* Accepts on both sockets from now on. */
void session_listen(struct control *c, bool admin);

/* Completions of OP_ACCEPT, OP_ACCEPT_READY, OP_HANDSHAKE, OP_RECV and OP_PIDFD. */
void session_accepted(struct control *c, bool admin, int result, bool more);
void session_accept_ready(struct control *c, bool admin);
void session_deadline(struct control *c);
void session_received(struct control *c, struct session *s, int result);
void session_process_ended(struct control *c, struct session *s, int result);

/* Ends a session: its channels are reclaimed, its record is freed when all has come back. */
void session_close(struct control *c, struct session *s);

/* One of the session's channels or operations has come back. */
void session_release(struct control *c, struct session *s);

/* Writes the record of a session that is live. */
void session_show(struct control *c, const struct session *s);

/* Sends MSG_GOODBYE and closes. */
void session_goodbye(struct control *c, struct session *s, int status, const char *text);

/*
 * Sends a message, with up to 3 descriptors. False: the client has hung up, or it does not read and
 * is closed.
 */
bool session_send(struct control *c, struct session *s, void *msg, uint16_t type, uint16_t bytes,
	uint32_t serial, const int *fds, uint32_t n_fds);

/*
 * Sends one packet with n_fds (at most 3) descriptors. Never waits: what does not fit into the
 * peer's queue is an error.
 */
int packet_send(int fd, const void *packet, size_t bytes, const int *fds, uint32_t n_fds);

/* Answers a request with MSG_ERROR. */
__attribute__((format(printf, 5, 6))) void session_refuse(
	struct control *c, struct session *s, uint32_t serial, int status, const char *format, ...);

/* --- session_message.c --- */

/* False, and refused with -EBUSY, when the session may not have another descriptor now. */
bool session_may_have_fds(struct control *c, struct session *s, uint32_t serial);

/* One packet of `bytes` bytes from a client, in s->packet. */
void session_message(struct control *c, struct session *s, uint32_t bytes);

/* False when the session is no administrator's: refused then. `what` is for the sentence. */
bool session_may_administer(
	struct control *c, struct session *s, uint32_t serial, const char *what);

/* Answers with MSG_ERROR -GPUQ_EPROTO, counts it, and closes. */
__attribute__((format(printf, 4, 5))) void session_broke_protocol(
	struct control *c, struct session *s, uint32_t serial, const char *format, ...);

/* --- control_pipeline.c --- */

int registration_table_create(struct control *c);
void registration_table_destroy(struct control *c);

/* MSG_PIPELINE and MSG_PIPELINE_CLOSE. */
void registration_piece(struct control *c, struct session *s, const struct msg_pipeline *m);
void registration_close_request(struct control *c, struct session *s, const void *msg);

/* Reclaims everything of a session whose channels are gone. True when that is done. */
bool registration_close_all(struct control *c, struct session *s);

/* A new device process is ready: it is owed every pipeline that the last one had. */
void registration_hand_over(struct control *c);

/* The device process answered. */
void registration_added(struct control *c, const struct devlink_msg *m);
void registration_removed(struct control *c, const struct devlink_msg *m);

/* --- control_model.c --- */

int model_table_create(struct control *c);
void model_table_destroy(struct control *c);

/* MSG_MODEL_QUERY, MSG_ADMIN_LOAD and MSG_ADMIN_UNLOAD. */
void model_query(struct control *c, struct session *s, const void *msg);
void model_load_request(struct control *c, struct session *s, const void *msg);
void model_unload_request(struct control *c, struct session *s, const void *msg);

/* Writes what the record says that the control process knows. */
void model_show(struct control *c, const struct served_model *m);

/* The device process answered. */
void model_loaded(struct control *c, const struct devlink_msg *msg);
void model_unloaded(struct control *c, const struct devlink_msg *msg);

/* The device process has ended; a new one is owed every model. */
void model_device_down(struct control *c);
void model_hand_over(struct control *c);

/* The model of that name; NULL: there is none. */
struct served_model *model_find(struct control *c, const char *name);

/* A place for a new model: a free one, or that of one that could not be loaded; or NULL. */
struct served_model *model_find_place(struct control *c);

/* Begins to serve a model in a place; what `as` says of it, its descriptor too, is taken over. */
void model_begin(struct control *c, struct served_model *m, const struct served_model *as);

/* Its place is free: the device process knows nothing of it any more, or never did. */
void model_free(struct control *c, struct served_model *m);

/* It is there, but for this reason it cannot be served. */
void model_failed(struct control *c, struct served_model *m, int status, const char *why);

/* Begins to unload it. Without force it stays if it has sessions. */
void model_remove(struct control *c, struct served_model *m, bool force);

/* --- control_wanted.c --- */

/*
 * At the start and when the configuration was read again: what it names is to be served, and
 * nothing else that it named before. -ENOMEM.
 */
int model_configure(struct control *c);

/* A model has come, gone or failed: does what is to be done next. */
void model_reconcile(struct control *c);

/* An administrator has unloaded it. */
void model_drop(struct control *c, const char *name);

/* Once a second: those that retire may have no session any more. */
void model_tick(struct control *c);

/* --- control_graph.c --- */

/* Sets c->hot_list, and makes its folder. What goes wrong is logged: gpuqd works without. */
void graph_hot_list_prepare(struct control *c);

/* MSG_GRAPH_QUERY, MSG_PRESENT_QUERY, MSG_ADMIN_CAPTURE and MSG_ADMIN_EVICT. */
void graph_query(struct control *c, struct session *s, const void *msg);
void graph_present_query(struct control *c, struct session *s, const void *msg);
void graph_capture_request(struct control *c, struct session *s, const void *msg);
void graph_evict_request(struct control *c, struct session *s, const void *msg);

/* A new device process is ready. */
void graph_hand_over(struct control *c);

/* The device process told of a device that the machine has. */
void graph_present(struct control *c, const struct devlink_msg *m);

/* --- control_channel.c --- */

int channel_table_create(struct control *c);

/* Limits of memory that have presets of their own, from the configuration. */
void memory_limits_set(struct control *c);

/*
 * Whether a session may have so much more memory: -GPUQ_ELIMIT and a sentence when a limit of the
 * client, its user or the whole is reached. memory_take() and memory_give() count it.
 */
int memory_check(
	const struct control *c, const struct session *s, uint64_t bytes, char text[MSG_TEXT_MAX]);
void memory_take(struct control *c, struct session *s, uint64_t bytes);
void memory_give(struct control *c, struct session *s, uint64_t bytes);

/* The sentence of a limit that is reached; returns -GPUQ_ELIMIT. */
int limit_reached(char text[MSG_TEXT_MAX], const char *name, uint64_t limit);

/* A new device process is ready: it is owed every channel that the last one had. */
void channel_hand_over(struct control *c);

/* MSG_OPEN and MSG_CLOSE. */
void channel_open(struct control *c, struct session *s, const struct msg_open *m);
void channel_close_request(struct control *c, struct session *s, const struct msg_close *m);

/* Writes the record of a channel whose memory is there. */
void channel_show(struct control *c, const struct channel *ch);

/* Reclaims a channel as soon as its state allows. */
void channel_close(struct control *c, struct channel *ch);

/* Completions of OP_ALLOCATE and OP_PUNCH. */
void channel_allocated(struct control *c, struct channel *ch, int result);
void channel_punched(struct control *c, struct channel *ch, int result);

/* The device process answered. */
void channel_added(struct control *c, struct channel *ch);
void channel_removed(struct control *c, struct channel *ch);
void channel_poisoned(struct control *c, struct channel *ch);

/* --- control_buffer.c --- */

int buffer_records_create(struct control *c);

/* At the end, when nobody is told anything any more: some may still be on their way back. */
void buffer_records_destroy(struct control *c);

/* MSG_BUFFER_ALLOC, _EXPORT, _GRANT, _ACCEPT, _FREE. */
void buffer_alloc(struct control *c, struct session *s, const void *msg);
void buffer_export(struct control *c, struct session *s, const void *msg);
void buffer_grant(struct control *c, struct session *s, const void *msg);
void buffer_accept(struct control *c, struct session *s, const void *msg);
void buffer_free(struct control *c, struct session *s, const void *msg);

/* The session is closing: gives up all that it has. */
void buffer_session_close(struct control *c, struct session *s);

/* The device process answered, with a descriptor in *fd or -1; -1 when it was taken. */
void buffer_message(struct control *c, const struct devlink_msg *m, int *fd);

/* Completion of OP_PUNCH_BUFFER. */
void buffer_punched(struct control *c, struct buffer *b);

/* The device process has ended: what it had is lost. A new one is told when it is ready. */
void buffer_device_down(struct control *c);
void buffer_hand_over(struct control *c);

#endif
