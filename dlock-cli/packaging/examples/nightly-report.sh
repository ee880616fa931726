#!/bin/sh
# Takes its own lock. The second time it is started with the lock, and goes on.
[ "${HAS_LOCK-}" = nightly-report ] ||
  exec env HAS_LOCK=nightly-report dlock run nightly-report -- "$0" "$@"

echo "reporting with token $DLOCK_FENCING_TOKEN"
