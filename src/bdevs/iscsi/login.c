/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From nothing to a session that takes commands: connect, log in (elsewhere, if the target says so), and hear out what the unit
 * has to say first. The same steps for a worker that waits for them and for a thread that does not.
 *
 * Context: whoever services the libiscsi context; the callbacks come from inside iscsi_service().
 */
#include <errno.h>
#include <stdio.h>

#include "bdevs/iscsi/internal.h"

#define ATTENTIONS_MAX 16

static void connected(struct iscsi_context *context, int status, void *data, void *arg);

struct iscsi_context *
iscsi_session_create(const struct iscsi_disk *disk, unsigned lane, struct err *err)
{
	const struct iscsi_address *a = disk->address;
	struct iscsi_context *context = iscsi_create_context(disk->initiator_iqn);

	if (context == NULL) {
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	iscsi_set_noautoreconnect(context, 1);
	iscsi_set_session_type(context, ISCSI_SESSION_NORMAL);
	iscsi_set_targetname(context, a->target);
	iscsi_set_header_digest(context, a->header_digest ? ISCSI_HEADER_DIGEST_CRC32C : ISCSI_HEADER_DIGEST_NONE_CRC32C);
	iscsi_set_isid_random(context, disk->isid, lane);
	if (a->user[0] != '\0') {
		iscsi_set_initiator_username_pwd(context, a->user, a->password);
	}
	if (a->target_user[0] != '\0') {
		iscsi_set_target_username_pwd(context, a->target_user, a->target_password);
	}
	return context;
}

const char *
iscsi_login_why(const struct iscsi_login *l)
{
	return l->why[0] != '\0' ? l->why : "the target hung up";
}

static void
end(struct iscsi_login *l, bool good)
{
	if (l->ended) {
		return;
	}
	l->ended = true;
	l->good = good;
	if (!good) {
		/* What it says later is less to the point. */
		snprintf(l->why, sizeof(l->why), "%s", iscsi_get_error(l->context));
	}
	if (l->done != NULL) {
		l->done(l);
	}
}

static void ask_if_ready(struct iscsi_login *l);

static void
told(struct iscsi_context *context, int status, void *data, void *arg)
{
	struct iscsi_login *l = arg;
	struct scsi_task *task = data;
	bool attention = status == SCSI_STATUS_CHECK_CONDITION && (int)task->sense.key == SCSI_SENSE_UNIT_ATTENTION;

	l->resized |= attention && task->sense.ascq == SCSI_SENSE_ASCQ_CAPACITY_DATA_HAS_CHANGED;
	scsi_free_scsi_task(task);
	if (attention && ++l->attentions < ATTENTIONS_MAX) {
		ask_if_ready(l);
		return;
	}
	/* Busy, reserved or not ready yet: the first command will hear of it. */
	end(l, status != SCSI_STATUS_CANCELLED && status != SCSI_STATUS_ERROR);
}

static void
ask_if_ready(struct iscsi_login *l)
{
	if (iscsi_testunitready_task(l->context, l->lun, told, l) == NULL) {
		end(l, false);
	}
}

static void
logged_in(struct iscsi_context *context, int status, void *data, void *arg)
{
	struct iscsi_login *l = arg;

	if (status == SCSI_STATUS_REDIRECT && ++l->redirects <= l->redirects_max) {
		iscsi_disconnect(context);
		if (iscsi_connect_async(context, iscsi_get_target_address(context), connected, l) != 0) {
			end(l, false);
		}
	} else if (status != SCSI_STATUS_GOOD) {
		end(l, false);
	} else {
		ask_if_ready(l);
	}
}

static void
connected(struct iscsi_context *context, int status, void *data, void *arg)
{
	struct iscsi_login *l = arg;

	if (status != SCSI_STATUS_GOOD || iscsi_login_async(context, logged_in, l) != 0) {
		end(l, false);
	}
}

int
iscsi_login_start(struct iscsi_login *l, struct iscsi_context *context, const char *portal, int lun)
{
	l->context = context;
	l->lun = lun;
	return iscsi_connect_async(context, portal, connected, l) == 0 ? 0 : -ECONNREFUSED;
}
