/* SPDX-License-Identifier: BSD-3-Clause */
/* vhost_rebalance() is declared in vhost.h. */
#ifndef VHOST_REBALANCE_H
#define VHOST_REBALANCE_H

/* Control thread: forgets what was measured. */
void rebalance_release(void);

#endif
