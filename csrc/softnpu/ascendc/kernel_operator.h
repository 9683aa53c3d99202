// Ascend C on the host: what a kernel includes. CANN's header of this name takes its place for the
// hardware.
#pragma once

#include "cube.h"
