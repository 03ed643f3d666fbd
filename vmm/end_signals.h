/*
 * The signals that end godwit: SIGINT, SIGTERM and SIGHUP.
 *
 * The first one is handed to the event loop, by a descriptor, and ends the machine in good order. That waits
 * for requests that the host's kernel neither carries out nor cancels (a network file system whose server is
 * silent), with no event loop running: so a thread of its own looks for signals all the time, and the next
 * one ends the process at once, unless good order comes within a second.
 *
 * Made and freed by the first thread.
 */
#pragma once

struct end_signals;
struct error;
struct log;

/* Blocks the signals on this thread and on all that it starts. -errno with a message. */
int end_signals_create(struct end_signals **signals, struct error *err);

/* Starts the thread, which says to `log` (copied) what it does; signals that came before are not lost. -errno
 * with a message. */
int end_signals_start(struct end_signals *signals, const struct log *log, struct error *err);

/* An eventfd, readable when the first signal has come: its value is the signal's number. Borrowed. */
int end_signals_fd(const struct end_signals *signals);

/* godwit is ending, for whatever reason: the next signal is not the first one any more. */
void end_signals_ending(struct end_signals *signals);

/* Ends the thread. The signals stay blocked. NULL is allowed. */
void end_signals_destroy(struct end_signals *signals);
