/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside `berth perf`. A run has targets (each bdev or socket once, however many jobs use it) and
 * workers. A worker is a lightweight thread with one queue of one target: a job has one worker for
 * each of its CPUs and queues.
 *
 * Contexts: the control thread owns the run and the targets, opens and closes them; a worker's own
 * thread owns the worker from its start message to its finished message, but for `result.ios`,
 * which control reads meanwhile for the progress.
 */
#ifndef APP_PERF_INTERNAL_H
#define APP_PERF_INTERNAL_H

#include <stdatomic.h>

#include "app/perf_options.h"
#include "base/hist.h"
#include "bdev/bdev.h"
#include "event/reactor.h"
#include "event/thread.h"
#include "virtio/driver/blk.h"

struct perf_worker;
struct perf_run;

/*
 * Completions handled before what follows them is published: small, so that both sides have work
 * at the same time.
 */
#define PERF_BATCH 16

/* ---- Requests ---- */

struct perf_request {
	struct driver_blk_request blk; /* used by sockets */
	struct iovec iov;
	uint64_t lba;      /* in blocks of the target */
	uint64_t stamp_ns; /* when it was submitted */
	uint64_t unit;     /* verify: place in the worker's range */
	int status;
	uint8_t op; /* enum bdev_op; of the request that was submitted last */
	struct perf_worker *worker;
	struct bdev_io *io; /* used by bdevs */
};

/* ---- Targets (perf_bdev.c, perf_socket.c) ---- */

struct perf_target {
	const struct perf_target_ops *ops;
	char *name; /* as the options say it */
	uint32_t block_size;
	uint64_t num_blocks;
	uint32_t buffer_align;
	bool readonly;
	uint32_t ops_mask;    /* 1 << enum bdev_op */
	size_t request_extra; /* bytes that follow a request, for the target */

	/* Sockets: what all its workers together need. Set before open. */
	unsigned workers;
	unsigned next_queue;
	unsigned queue_depth; /* of the deepest worker */
	unsigned queue_size;
	bool indirect;
	uint64_t buffer_bytes;
	int interrupt_fd; /* while it is readable nothing is waited for; -1: none */
	struct driver_blk *blk;

	/* Bdevs. */
	struct bdev_desc *desc;
	char *bdev_name; /* of one that a JSON object describes, else NULL */
	char *created;   /* name of the bdev that we made ourselves, NULL: none */
	int (*delete)(const char *name, void (*done)(void *ctx, int status), void *ctx,
		      struct err *err);
	void (*closed)(struct perf_target *target);
	void (*lost)(struct perf_target *target);
	void *ctx; /* the run */
};

struct perf_target_ops {
	/* Control thread. May block for some seconds. */
	int (*open)(struct perf_target *target, struct err *err);
	/*
	 * Control thread; target->closed(target) comes when it is done, at once or later. Also
	 * after a failed open.
	 */
	void (*close)(struct perf_target *target);
	/* Control thread: false once the other side is gone. */
	bool (*alive)(struct perf_target *target);

	/* Control thread, after open: the worker's buffers. 0 or -ENOMEM. */
	int (*prepare)(struct perf_worker *worker, struct err *err);
	void (*unprepare)(struct perf_worker *worker); /* after stop */
	/* Worker's thread. Gets what it takes to submit, sets worker->fd. 0 or a negative errno. */
	int (*start)(struct perf_worker *worker, struct err *err);
	void (*stop)(struct perf_worker *worker);
	/*
	 * Takes req (op, lba, num_blocks of the worker); 0, or a negative errno when it cannot
	 * even be submitted.
	 */
	int (*submit)(struct perf_worker *worker, struct perf_request *req);
	/* What was submitted is complete as a batch. May be NULL. */
	void (*flush)(struct perf_worker *worker);
	/*
	 * Fills done with finished requests, status set, and returns how many; or a negative
	 * errno: the target is broken.
	 */
	int (*poll)(struct perf_worker *worker, struct perf_request *done[PERF_BATCH]);
	bool (*arm)(struct perf_worker *worker);
	void (*disarm)(struct perf_worker *worker); /* may be NULL */
	bool stamp_after_flush; /* submit only queues: the clock is read off the critical path */
};

extern const struct perf_target_ops perf_bdev_ops;
extern const struct perf_target_ops perf_socket_ops;

/* ---- Workers (perf_worker.c) ---- */

struct perf_result {
	_Atomic uint64_t ios;
	uint64_t checked; /* blocks that verify compared, each as often as it did */
	uint64_t start_ns;
	uint64_t end_ns;
	struct hist latency;
};

enum perf_phase {
	PERF_RUNNING,
	PERF_ENDING,   /* waits for what is in flight */
	PERF_CHECKING, /* verify, after that: reads everything it wrote */
	PERF_FINISHED,
};

struct perf_worker {
	struct poller poller;

	/* Hot. */
	const struct perf_target_ops *ops;
	struct driver_blk_queue *queue; /* sockets */
	struct bdev_channel *ch;        /* bdevs */
	struct perf_request **ready;    /* bdevs: finished and not polled yet */
	unsigned ready_count;
	unsigned inflight;
	unsigned blocks; /* of one request */
	unsigned sectors_per_block;
	bool spin;
	enum perf_phase phase;
	enum perf_workload workload;
	unsigned read_percent;
	uint64_t random;
	uint64_t first_block; /* of the range of this worker */
	uint64_t units;       /* of `blocks` blocks in it */
	uint64_t next_unit;   /* sequential workloads, and verify's last pass */

	/* Cold. */
	const struct perf_job_options *job;
	struct perf_target *target;
	struct perf_run *run;
	struct thread *thread;
	unsigned number;      /* among the workers of its job */
	unsigned cpu;         /* CPUMASK_CPUS: not pinned */
	unsigned queue_index; /* of the target, sockets */
	unsigned depth;
	int fd;           /* signals completions, -1: none */
	uint8_t *buffers; /* buffer_bytes for each request */
	size_t buffer_bytes;
	void *requests; /* depth of them, request_bytes each */
	size_t request_bytes;
	uint32_t *generations; /* verify: of each unit; top bit: a request is at it */
	uint64_t written;      /* verify: units that were written at least once */
	struct err err;        /* first one */
	struct perf_result result;

	struct msg start_msg, reset_msg, stop_msg, abandon_msg, exit_msg;
	struct msg started_msg, finished_msg; /* to control, which sets their functions */
	bool started;                         /* control's: started_msg has come */
	bool finished;                        /* control's: finished_msg has come */
	bool abandoned;                       /* control's: abandon_msg was sent */
};

/*
 * Sets up the part that needs no thread: range, depth, phase. -EINVAL when the job does not fit
 * the target.
 */
int perf_worker_init(struct perf_worker *worker, unsigned workers_of_job, struct err *err);

/*
 * Message functions: start_msg, reset_msg (count from now on), stop_msg, abandon_msg (stop
 * without waiting for what is in flight), exit_msg (after finished_msg).
 */
void perf_worker_start(struct msg *msg);
void perf_worker_reset(struct msg *msg);
void perf_worker_stop(struct msg *msg);
void perf_worker_abandon(struct msg *msg);
void perf_worker_exit(struct msg *msg);

/* What follows a request begins here. */
#define PERF_REQUEST_BYTES \
	((sizeof(struct perf_request) + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES)

/* The i-th request. */
static inline struct perf_request *
perf_worker_request(struct perf_worker *worker, unsigned i)
{
	return (struct perf_request *)((uint8_t *)worker->requests + i * worker->request_bytes);
}

/* ---- The run (perf_run.c) and what it reports (perf_report.c) ---- */

struct perf_cpu_time {
	uint64_t self_ns;
	uint64_t target_ns;
};

/* CPU time of a process, all its threads, in nanoseconds. 0 or -ESRCH. */
int perf_process_cpu_ns(pid_t pid, uint64_t *ret_ns);

struct perf_run {
	struct perf_options options;
	struct perf_target targets[PERF_JOBS_MAX];
	unsigned target_count;
	struct perf_worker *workers;
	unsigned worker_count;
	struct thread *control;
	struct perf_cpu_time cpu; /* of the measured time */
	struct err err;           /* first one */
	bool progress;            /* shown on standard error */
	bool measured;            /* the workers got as far as measuring */
	void (*stop)(struct perf_run *run);
};

/*
 * Fill in options, execute, report, free. execute returns a negative errno when the options do
 * not fit this machine; what goes wrong later is in run->err.
 */
struct perf_run *perf_run_create(void);
int perf_run_execute(struct perf_run *run, struct err *err);
void perf_run_free(struct perf_run *run);

/* Sums of all workers, as shown while running. */
uint64_t perf_run_ios(const struct perf_run *run);

void perf_report_text(const struct perf_run *run, FILE *out);
void perf_report_json(const struct perf_run *run, FILE *out);

/* perf_calibrate.c: how long a cache line takes from one CPU to another and back. */
int perf_calibrate(const struct perf_options *options, struct err *err);

#endif
