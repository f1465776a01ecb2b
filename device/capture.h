/* SPDX-License-Identifier: MIT */
/*
 * capture.h: the rules of captures, the same for every device. A thread has at most one capture;
 * streams join it by awaiting events that were recorded in it. For each stream of a capture is
 * kept how many commands of each other stream come before its next one: so it is known, without
 * asking a driver, whether everything has been joined when the capture ends or signals.
 */
#ifndef GPUQ_DEVICE_CAPTURE_H
#define GPUQ_DEVICE_CAPTURE_H

#include "device/driver.h"

/* 0, or -EBUSY when this thread captures; then its capture is broken. */
int capture_refuse(void);

/* This thread's capture, if there is one, is broken: something failed. */
void capture_break(void);

/* Starts a capture of this thread: -EBUSY (also breaks what is under way) or -ENOMEM. */
int capture_start(struct device_stream *stream);

/* Whether this thread began a capture on this stream. */
bool capture_is_mine(const struct device_stream *stream);

/* Whether stream number `place` comes after every command of the capture. */
bool capture_all_before(const struct device_capture *capture, uint32_t place);

/* Ends the capture that the stream takes part in: its streams capture no more. Any thread. */
void capture_finish(struct device_stream *stream);

/* A command was recorded in the stream. */
void capture_command(struct device_stream *stream);

/* May a command be recorded now? 0 or -EINVAL; `signal`: it is to be the last. */
int capture_check_command(const struct device_stream *stream, bool signal);

/* The event was recorded in the stream, which may capture or not. */
void capture_record(struct device_event *event, const struct device_stream *stream);

/*
 * The stream is about to await the event: 0, -EBUSY or -EINVAL, as device_event_await() says. A
 * stream that does not capture joins.
 */
int capture_await(const struct device_event *event, struct device_stream *stream);

#endif
