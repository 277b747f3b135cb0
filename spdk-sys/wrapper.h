/* What bindgen reads: the installed headers of what the engine uses. */
#include <spdk/stdinc.h>
#include <spdk/version.h>
#include <spdk/env.h>
#include <spdk/event.h>
#include <spdk/thread.h>
#include <spdk/bdev.h>
#include <spdk/bdev_module.h>
#include <spdk/nvme.h>
#include "shim.h"
