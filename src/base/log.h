/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The log. Libraries return errors, their owners log them: once, by the layer that decides, tagged
 * with the object's name. Levels and flags are SPDK's, because its log_* methods set them.
 * Lines go to standard error (the print level) as "LEVEL flag object: text"; under systemd (a journal
 * on standard error) with its priority prefix instead of the level. Any thread; a line is one write, cut at 1023
 * bytes; control characters in it become question marks.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

enum log_level {
	LOG_LEVEL_DISABLED = -1,
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_NOTICE,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

/* The components that log; each may have its debug lines switched on by log_set_flag. */
#define LOG_FLAGS(X) \
	X(APP, "app") \
	X(AIO, "aio") \
	X(BDEV, "bdev") \
	X(BDEV_MALLOC, "bdev_malloc") \
	X(BDEV_NULL, "bdev_null") \
	X(NBD, "nbd") \
	X(REACTOR, "reactor") \
	X(RPC, "rpc") \
	X(STATE, "state") \
	X(THREAD, "thread") \
	X(URING, "uring") \
	X(VHOST, "vhost") \
	X(VHOST_BLK, "vhost_blk") \
	X(VHOST_RING, "vhost_ring") \
	X(VIRTIO, "virtio")

enum log_flag {
#define LOG_FLAG_ENUM(id, name) LOG_##id,
	LOG_FLAGS(LOG_FLAG_ENUM)
#undef LOG_FLAG_ENUM
	LOG_FLAG_COUNT
};

/* object: the name of the controller, bdev, ... the line is about; "" for none. */
void log_write(enum log_level level, enum log_flag flag, const char *object, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#define LOG_ERROR(flag, object, ...) log_write(LOG_LEVEL_ERROR, LOG_##flag, object, __VA_ARGS__)
#define LOG_WARNING(flag, object, ...) log_write(LOG_LEVEL_WARNING, LOG_##flag, object, __VA_ARGS__)
#define LOG_NOTICE(flag, object, ...) log_write(LOG_LEVEL_NOTICE, LOG_##flag, object, __VA_ARGS__)
#define LOG_INFO(flag, object, ...) log_write(LOG_LEVEL_INFO, LOG_##flag, object, __VA_ARGS__)
/* Written when the level is DEBUG or the flag is on; the arguments are not evaluated otherwise. */
#define LOG_DEBUG(flag, object, ...) \
	do { \
		if (log_debug_on(LOG_##flag)) { \
			log_write(LOG_LEVEL_DEBUG, LOG_##flag, object, __VA_ARGS__); \
		} \
	} while (0)

bool log_debug_on(enum log_flag flag);

/* The level of the log proper (syslog or journal in SPDK) and of what is printed; both NOTICE at start. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
void log_set_print_level(enum log_level level);
enum log_level log_get_print_level(void);
void log_set_timestamps(bool on);

/* "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG", "DISABLED", in any case; 0 or -EINVAL. */
int log_level_parse(const char *name, enum log_level *ret_level);
const char *log_level_name(enum log_level level);

/* "all" sets every flag. 0, or -EINVAL when there is no such flag. */
int log_set_flag(const char *name, bool on);
const char *log_flag_name(enum log_flag flag);
bool log_get_flag(enum log_flag flag);

#endif
