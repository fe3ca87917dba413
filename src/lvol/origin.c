/* SPDX-License-Identifier: BSD-3-Clause */
/* Where a volume's contents came from: an xattr of its blob. */
#include <errno.h>

#include "lvol/internal.h"

void
lvol_set_origin(struct lvol *lvol, const uuid_t origin, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_done(lvol->store, lvol, done, ctx);

	if (op == NULL) {
		return;
	}
	if (lvol_store_usable(lvol->store, &op->err) != 0 || lvol->blob == NULL) {
		lvol_op_end(op, op->err.code != 0 ? op->err.code : -ENODEV);
		return;
	}
	uuid_unparse_lower(origin, op->text);
	op->xattrs[0] = (struct blob_xattr){.name = LVOL_XATTR_ORIGIN, .value = op->text, .bytes = UUID_STR_LEN};
	blob_set_xattrs(lvol->blob, op->xattrs, 1, lvol_op_blob_done, op);
}

bool
lvol_origin(const struct lvol *lvol, uuid_t ret_origin)
{
	const char *text = lvol->blob != NULL ? lvol_text_xattr(lvol->blob, LVOL_XATTR_ORIGIN, UUID_STR_LEN) : NULL;

	return text != NULL && uuid_parse(text, ret_origin) == 0 && !uuid_is_null(ret_origin);
}
