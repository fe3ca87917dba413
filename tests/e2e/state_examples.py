# SPDX-License-Identifier: BSD-3-Clause
"""
What state_test.py calls: an example of every method whose schema says "mutates". Whoever adds such a method adds it here, in
the place where what it needs is there.

MAKE and END are lists of (method, params): MAKE makes and changes things, END deletes all of them again. In strings $DIR is the
test's folder; FILES are there before, of so many bytes. Params may be a function of the daemon, called before the call.
NEEDS: what must hold for a method to be called on this machine; a method that berthd was built without is left out by itself.
"""
import ctypes
import os
import stat

import harness

MIB = 1 << 20
UUID = "b0000000-0000-4000-8000-0000000000%02x"

FILES = {
    "aio.img": 16 * MIB,
    "uring.img": 16 * MIB,
    "store.img": 32 * MIB,
}


def grow_aio(daemon):
    os.truncate(daemon.path("aio.img"), 24 * MIB)
    return {"name": "Aio0"}


def put_key(daemon):
    path = daemon.path("key0")
    with open(path, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as f:
        f.write("00112233445566778899aabbccddeeff" + "f0e1d2c3b4a5968778695a4b3c2d1e0f")
    return {"name": "key0", "cipher": "AES_XTS", "key_file": path}


def put_password(daemon):
    path = daemon.path("chap")
    with open(path, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as f:
        f.write("geheimgeheim\n")
    return {"name": "IscsiLate", "initiator_iqn": "iqn.2024-01.io.example:client", "max_sessions": 2, "wait": True,
            "url": "iscsi://me@127.0.0.1:9/iqn.2024-01.io.example:disk/1", "chap_secret_file": path}


MAKE = [
    ("framework_set_scheduler", {"name": "dynamic", "period": 500000, "load_limit": 30}),
    ("scheduler_set_options", {"isolated_core_mask": "0x0"}),
    ("bdev_set_options", {"bdev_io_pool_size": 32768, "bdev_auto_examine": True}),
    ("bdev_null_create", {"name": "Null0", "num_blocks": 2048, "block_size": 512}),
    ("bdev_null_create", {"name": "Null1", "num_blocks": 4096, "block_size": 4096, "uuid": UUID % 1}),
    ("bdev_null_resize", {"name": "Null0", "new_size": 4}),
    ("bdev_malloc_create", {"num_blocks": 8192, "block_size": 512}),
    ("bdev_null_create", {"name": "Null2", "num_blocks": 2048, "block_size": 4096, "md_size": 64, "dif_type": 3,
                          "dif_pi_format": 2, "dif_is_head_of_md": True, "optimal_write_size": 8}),
    ("bdev_malloc_create", {"name": "Protected", "num_blocks": 2048, "block_size": 512, "md_size": 16, "dif_type": 1,
                            "md_interleave": True}),
    ("bdev_zone_block_create", {"name": "Zone0", "base_bdev": "Protected", "zone_capacity": 100, "optimal_open_zones": 2,
                                "max_open_zones": 3, "max_active_zones": 4}),
    ("bdev_zone_block_create", {"name": "ZoneLate", "base_bdev": "ComesLater3", "zone_capacity": 64, "optimal_open_zones": 1}),
    ("bdev_malloc_create", {"name": "Base", "num_blocks": 8192, "block_size": 4096, "optimal_io_boundary": 8}),
    ("bdev_aio_create", {"name": "Aio0", "filename": "$DIR/aio.img", "block_size": 512}),
    ("bdev_aio_rescan", grow_aio),
    ("bdev_uring_create", {"name": "Uring0", "filename": "$DIR/uring.img", "block_size": 4096}),
    ("bdev_passthru_create", {"name": "Pass0", "base_bdev_name": "Base", "uuid": UUID % 2}),
    ("bdev_split_create", {"base_bdev": "Null1", "split_count": 3, "split_size_mb": 4}),
    ("bdev_split_create", {"base_bdev": "ComesLaterToo", "split_count": 2}),
    ("bdev_delay_create", {"name": "Delay0", "base_bdev_name": "Null1p1", "avg_read_latency": 10, "p99_read_latency": 20,
                           "avg_write_latency": 30, "p99_write_latency": 40}),
    ("bdev_delay_update_latency", {"delay_bdev_name": "Delay0", "latency_type": "p99_write", "latency_us": 50}),
    ("bdev_powercut_create", {"name": "Cut0", "base_bdev_name": "Null1p2", "mode": "ordered", "seed": 3, "sector_size": 512}),
    ("bdev_raid_set_options", {"process_window_size_kb": 512, "assembly_timeout_sec": 20}),
    ("bdev_null_create", {"name": "RaidBase0", "num_blocks": 4096, "block_size": 512}),
    ("bdev_null_create", {"name": "RaidBase1", "num_blocks": 4096, "block_size": 512}),
    ("bdev_null_create", {"name": "RaidBase2", "num_blocks": 4096, "block_size": 512}),
    ("bdev_raid_create", {"name": "Raid1", "raid_level": "concat", "strip_size_kb": 4, "base_bdevs": ["RaidBase0", "ComesLater5"]}),
    ("bdev_raid_remove_base_bdev", {"name": "ComesLater5"}),
    ("bdev_raid_add_base_bdev", {"raid_bdev": "Raid1", "base_bdev": "RaidBase2"}),
    ("bdev_raid_create", {"name": "RaidLate", "raid_level": "concat", "strip_size_kb": 4, "base_bdevs": ["ComesLater4"]}),
    ("bdev_qcow2_create", {"name": "Image0", "base_bdev_name": "ComesLaterAsWell"}),
    ("bdev_error_create", {"base_name": "Malloc0", "uuid": UUID % 3}),
    ("bdev_passthru_create", {"name": "PassLate", "base_bdev_name": "ComesLater"}),
    ("accel_crypto_key_create", put_key),
    ("bdev_crypto_create", {"name": "Crypto0", "base_bdev_name": "Null1p0", "key_name": "key0"}),
    ("bdev_crypto_create", {"name": "CryptoLate", "base_bdev_name": "ComesLater", "key_name": "ComesLater", "wait": True}),
    ("bdev_virtio_attach_controller", {"name": "VirtioLate", "trtype": "user", "traddr": "$DIR/nobody", "dev_type": "blk",
                                       "vq_count": 3, "vq_size": 64, "reconnect_timeout_sec": 5, "wait": True}),
    ("bdev_nbd_create", {"name": "NbdLate", "socket": "$DIR/nobody", "export": "x", "connections": 2, "wait": True}),
    ("bdev_iscsi_set_options", {"timeout_sec": 17}),
    ("bdev_rbd_register_cluster", {"name": "ceph", "config_file": "$DIR/ceph.conf", "key_file": "$DIR/keyring", "core_mask": "0x1",
                                   "config_param": {"key": "geheimgeheim", "log_to_stderr": "false"}, "wait": True}),
    ("bdev_rbd_create", {"name": "RbdLate", "cluster_name": "ceph", "pool_name": "rbd", "rbd_name": "disk", "block_size": 4096,
                         "read_only": True, "uuid": UUID % 7, "wait": True}),
    ("bdev_iscsi_create", put_password),
    ("bdev_set_qos_limit", {"name": "Null0", "rw_ios_per_sec": 20000, "w_mbytes_per_sec": 100}),
    ("bdev_set_qos_limit", {"name": "Null0", "rw_ios_per_sec": 30000, "burst_ms": 50}),
    ("bdev_set_qos_limit", {"name": UUID % 2, "r_mbytes_per_sec": 7}),
    ("bdev_set_qos_weight", {"name": "Null0", "user": "vm0", "weight": 200}),
    ("bdev_set_qd_sampling_period", {"name": "Null0", "period": 100000}),
    ("bdev_enable_histogram", {"name": "Null0", "enable": True}),
    ("vhost_create_blk_controller", {"ctrlr": "vm0", "dev_name": "Null0", "readonly": True}),
    ("vhost_create_blk_controller", {"ctrlr": "vm1", "dev_name": "Pass0"}),
    ("vhost_controller_set_coalescing", {"ctrlr": "vm1", "delay_base_us": 50, "iops_threshold": 20000}),
    ("berth_disk_create", {"name": "disk0", "size": 8 * MIB, "store_size": 64 * MIB}),
    ("berth_disk_grow_store", {"size": 80 * MIB}),
    ("berth_disk_resize", {"name": "disk0", "size": 12 * MIB}),
    ("berth_disk_create", {"name": "disk1", "size": 8 * MIB, "backend": "file"}),
    ("bdev_aio_create", {"name": "StoreBase", "filename": "$DIR/store.img", "block_size": 512}),
    ("bdev_null_create", {"name": "Null3", "num_blocks": 4096, "block_size": 512, "uuid": UUID % 8}),
    ("bdev_lvol_create_lvstore", {"bdev_name": "StoreBase", "lvs_name": "gone"}),
    ("bdev_lvol_delete_lvstore", {"lvs_name": "gone"}),
    ("bdev_lvol_create_lvstore", {"bdev_name": "StoreBase", "lvs_name": "before"}),
    ("bdev_lvol_rename_lvstore", {"old_name": "before", "new_name": "lvs"}),
    ("bdev_lvol_grow_lvstore", {"lvs_name": "lvs"}),
    ("bdev_lvol_set_lvstore_options", {"lvs_name": "lvs", "low_space_percent": 20, "when_full": "pause"}),
    ("bdev_lvol_create", {"lvs_name": "lvs", "lvol_name": "a", "size_in_mib": 2, "thin_provision": True}),
    ("bdev_lvol_create", {"lvs_name": "lvs", "lvol_name": "b", "size_in_mib": 2, "encrypt_key": "key0"}),
    ("bdev_lvol_create", {"lvs_name": "lvs", "lvol_name": "c", "size_in_mib": 1, "clear_method": "none"}),
    ("bdev_lvol_create", {"lvs_name": "lvs", "lvol_name": "gone", "size_in_mib": 1, "thin_provision": True}),
    ("bdev_lvol_delete", {"name": "lvs/gone"}),
    ("bdev_lvol_rename", {"old_name": "lvs/c", "new_name": "d"}),
    ("bdev_lvol_resize", {"name": "lvs/d", "size_in_mib": 2}),
    ("bdev_lvol_snapshot", {"lvol_name": "lvs/a", "snapshot_name": "a0"}),
    ("bdev_lvol_snapshot_group", {"snapshots": [{"lvol_name": "lvs/a", "snapshot_name": "a1"},
                                                {"lvol_name": "lvs/d", "snapshot_name": "d1"}]}),
    ("bdev_lvol_set_origin", {"name": "lvs/a1", "origin": UUID % 9}),
    ("bdev_lvol_clone", {"snapshot_name": "lvs/a0", "clone_name": "e"}),
    ("bdev_lvol_set_parent", {"lvol_name": "lvs/e", "parent_name": "lvs/a1"}),
    ("bdev_lvol_clone", {"snapshot_name": "lvs/a0", "clone_name": "f"}),
    ("bdev_lvol_decouple_parent", {"name": "lvs/f"}),
    ("bdev_lvol_inflate", {"name": "lvs/f"}),
    ("bdev_lvol_set_read_only", {"name": "lvs/f"}),
    ("bdev_lvol_clone_bdev", {"lvs_name": "lvs", "bdev": "Null3", "clone_name": "g"}),
    ("bdev_lvol_create", {"lvs_name": "lvs", "lvol_name": "h", "size_in_mib": 2, "thin_provision": True}),
    ("bdev_lvol_set_parent_bdev", {"lvol_name": "lvs/h", "parent_name": "Null3"}),
    ("bdev_set_qos_limit", {"name": "lvs/d", "rw_ios_per_sec": 20000}),
    ("vhost_create_blk_controller", {"ctrlr": "vm2", "dev_name": "lvs/a"}),
    ("berth_nbd_server_create", {"name": "unix", "path": "$DIR/nbd.sock", "max_connections": 7}),
    ("berth_nbd_export_create", {"bdev_name": "Malloc0", "name": "export0", "description": "a disk", "server": "unix",
                                 "readonly": True}),
    ("nbd_start_disk", {"bdev_name": "Malloc0", "nbd_device": "/dev/nbd0"}),
]

END = [
    ("nbd_stop_disk", {"nbd_device": "/dev/nbd0"}),
    ("berth_nbd_export_delete", {"name": "export0"}),
    ("berth_nbd_server_delete", {"name": "unix"}),
    ("berth_disk_delete", {"name": "disk0"}),
    ("berth_disk_delete", {"name": "disk1"}),
    ("vhost_delete_controller", {"ctrlr": "vm2"}),
    ("bdev_lvol_delete_lvstore", {"lvs_name": "lvs"}),
    ("bdev_lvol_delete_lvstore", {"lvs_name": "disks"}),
    ("bdev_aio_delete", {"name": "StoreBase"}),
    ("bdev_aio_delete", {"name": "disks-store"}),
    ("bdev_null_delete", {"name": "Null3"}),
    ("vhost_delete_controller", {"ctrlr": "vm1"}),
    ("vhost_delete_controller", {"ctrlr": "vm0"}),
    ("bdev_nbd_delete", {"name": "NbdLate"}),
    ("bdev_rbd_delete", {"name": "RbdLate"}),
    ("bdev_rbd_unregister_cluster", {"name": "ceph"}),
    ("bdev_iscsi_delete", {"name": "IscsiLate"}),
    ("bdev_virtio_detach_controller", {"name": "VirtioLate"}),
    ("bdev_crypto_delete", {"name": "CryptoLate"}),
    ("bdev_crypto_delete", {"name": "Crypto0"}),
    ("accel_crypto_key_destroy", {"key_name": "key0"}),
    ("bdev_passthru_delete", {"name": "PassLate"}),
    ("bdev_powercut_delete", {"name": "Cut0"}),
    ("bdev_qcow2_delete", {"name": "Image0"}),
    ("bdev_error_delete", {"name": "EE_Malloc0"}),
    ("bdev_raid_delete", {"name": "RaidLate"}),
    ("bdev_raid_delete", {"name": "Raid1"}),
    ("bdev_null_delete", {"name": "RaidBase2"}),
    ("bdev_null_delete", {"name": "RaidBase1"}),
    ("bdev_null_delete", {"name": "RaidBase0"}),
    ("bdev_delay_delete", {"name": "Delay0"}),
    ("bdev_split_delete", {"base_bdev": "ComesLaterToo"}),
    ("bdev_split_delete", {"base_bdev": "Null1"}),
    ("bdev_passthru_delete", {"name": "Pass0"}),
    ("bdev_zone_block_delete", {"name": "ZoneLate"}),
    ("bdev_zone_block_delete", {"name": "Zone0"}),
    ("bdev_malloc_delete", {"name": "Protected"}),
    ("bdev_null_delete", {"name": "Null2"}),
    ("bdev_uring_delete", {"name": "Uring0"}),
    ("bdev_aio_delete", {"name": "Aio0"}),
    ("bdev_malloc_delete", {"name": "Base"}),
    ("bdev_malloc_delete", {"name": "Malloc0"}),
    ("bdev_null_delete", {"name": "Null1"}),
    ("bdev_null_delete", {"name": "Null0"}),
]

def has_librbd():
    try:
        return bool(ctypes.CDLL("librbd.so.1"))
    except OSError:
        return False


NEEDS = {
    "bdev_rbd_register_cluster": has_librbd,
    "bdev_rbd_unregister_cluster": has_librbd,
    "bdev_rbd_create": has_librbd,
    "bdev_rbd_delete": has_librbd,
    "bdev_uring_create": harness.has_uring,
    "bdev_uring_delete": harness.has_uring,
    "nbd_start_disk": lambda: os.path.exists("/dev/nbd0") and stat.S_ISBLK(os.stat("/dev/nbd0").st_mode),
    "nbd_stop_disk": lambda: os.path.exists("/dev/nbd0") and stat.S_ISBLK(os.stat("/dev/nbd0").st_mode),
}
