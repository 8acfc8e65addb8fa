// Work shared out to threads that need not come: who is there takes the next task, and whoever called waits only
// for tasks that were taken. A helper that lost its core, or sleeps, costs nothing; with a barrier, as OpenMP's
// loops end with, every operation would wait for it. On a machine where a frontend and clients want cores too,
// that is most of the time.

#pragma once

#include <cstdint>

namespace team {

// Does task `task`; `worker` is below the number of threads, and no other worker has it meanwhile.
typedef void (*Body)(const void *context, int64_t task, int64_t worker);

void run(int64_t threads, int64_t tasks, Body body, const void *context);

// Calls body(task, worker) for each of the tasks, in any order, and returns when all are done.
template <typename F>
inline void share(int64_t threads, int64_t tasks, const F &body) {
    run(threads, tasks, [](const void *context, int64_t task, int64_t worker) {
        (*static_cast<const F *>(context))(task, worker);
    }, &body);
}

// The same for runs of `size` items: body(first, last).
template <typename F>
inline void share_runs(int64_t threads, int64_t items, int64_t size, const F &body) {
    share(threads, (items + size - 1) / size, [&](int64_t task, int64_t) {
        const int64_t first = task * size, last = first + size;
        body(first, last < items ? last : items);
    });
}

}  // namespace team
