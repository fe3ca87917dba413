/* SPDX-License-Identifier: BSD-3-Clause */
/* Configuration files in the shape of SPDK's save_config:
 * {"subsystems":[{"subsystem":NAME,"config":[{"method","params"},...]},...]} */
#ifndef APP_CONFIG_FILE_H
#define APP_CONFIG_FILE_H

#include <jansson.h>

#include "base/err.h"

/*
 * The calls of the file, in order: *ret_calls is an array of {"method","params","where"}, new
 * reference; where is the place in the file for messages ("subsystems[0] (bdev), call 2"). Comments
 * as in C are allowed, as in SPDK. err names file and place: open(2)'s errno, or -EINVAL.
 */
int config_file_read(const char *path, json_t **ret_calls, struct err *err);

#endif
