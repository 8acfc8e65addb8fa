// `team.h`: one word says which job it is and which task is next, so that a helper that comes late takes nothing.

#include "team.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace team {
namespace {

constexpr auto PATIENCE = std::chrono::microseconds(50);  // about the time between two operations of a step
constexpr int LOOKS = 32;                                 // between two looks at the clock
constexpr uint64_t TASKS = UINT32_MAX;                    // low half of the word; all bits set: closed

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Looks for a while, then says that it is better to sleep.
class Patience {
  public:
    bool ends() {
        pause();
        if (++looks_ % LOOKS) return false;
        const auto now = std::chrono::steady_clock::now();
        if (looks_ == LOOKS) end_ = now + PATIENCE;
        return now >= end_;
    }

  private:
    int looks_ = 0;
    std::chrono::steady_clock::time_point end_;
};

struct Team {
    alignas(64) std::atomic<uint64_t> next{TASKS};  // number of the job, then its next task
    // The job; written only while `next` is closed, so that who reads it and then takes a task has read it whole.
    alignas(64) std::atomic<Body> body{nullptr};
    std::atomic<const void *> context{nullptr};
    std::atomic<int64_t> tasks{0}, threads{0};
    alignas(64) std::atomic<int64_t> done{0};  // by helpers
    std::atomic<bool> caller_sleeps{false};
    std::atomic<int64_t> asleep{0};
    std::mutex lock;
    std::condition_variable work, end;
    std::mutex in_use;
    int64_t helpers = 0;

    // Takes and does one task as this worker; false where there is none for it.
    bool help(int64_t worker) {
        uint64_t seen = next.load();
        const auto own_body = body.load(std::memory_order_relaxed);
        const auto own_context = context.load(std::memory_order_relaxed);
        const int64_t count = tasks.load(std::memory_order_relaxed), most = threads.load(std::memory_order_relaxed);
        if (static_cast<int64_t>(seen & TASKS) >= count || worker >= most) return false;
        if (!next.compare_exchange_strong(seen, seen + 1)) return true;  // another one was faster
        own_body(own_context, static_cast<int64_t>(seen & TASKS), worker);
        done.fetch_add(1);
        if (caller_sleeps.load()) {
            const std::lock_guard<std::mutex> held(lock);
            end.notify_one();
        }
        return true;
    }

    void serve(int64_t worker) {
        for (;;) {
            Patience patience;
            while (help(worker) ? (patience = Patience(), true) : !patience.ends()) {
            }
            std::unique_lock<std::mutex> held(lock);
            asleep++;
            const uint64_t seen = next.load();
            if (static_cast<int64_t>(seen & TASKS) >= tasks.load() || worker >= threads.load()) work.wait(held);
            asleep--;
        }
    }

    void call_helpers(int64_t wanted) {
        while (helpers < wanted) {
            const int64_t worker = ++helpers;
            std::thread([this, worker] { serve(worker); }).detach();
        }
        if (asleep.load() == 0) return;
        const std::lock_guard<std::mutex> held(lock);
        work.notify_all();
    }

    void run(int64_t most, int64_t count, Body own_body, const void *own_context) {
        const uint64_t job = (next.load() | TASKS) + 1;  // the next number, task 0
        next.store(job - 1);                             // closed: the old number
        done.store(0);
        body.store(own_body, std::memory_order_relaxed);
        context.store(own_context, std::memory_order_relaxed);
        tasks.store(count, std::memory_order_relaxed);
        threads.store(most, std::memory_order_relaxed);
        next.store(job);
        call_helpers(most - 1);
        int64_t own = 0;
        for (;; own++) {
            const int64_t task = static_cast<int64_t>(next.fetch_add(1) & TASKS);
            if (task >= count) break;
            own_body(own_context, task, 0);
        }
        Patience patience;
        while (own + done.load() < count) {
            if (!patience.ends()) continue;
            std::unique_lock<std::mutex> held(lock);
            caller_sleeps.store(true);
            end.wait(held, [&] { return own + done.load() >= count; });
            caller_sleeps.store(false);
        }
    }
};

// Never ends: its threads may outlive the statics.
Team &only() {
    static Team &team = *new Team;
    return team;
}

}  // namespace

void run(int64_t threads, int64_t tasks, Body body, const void *context) {
    if (threads > 1 && tasks > 1) {
        Team &team = only();
        if (std::unique_lock<std::mutex> held(team.in_use, std::try_to_lock); held.owns_lock())
            return team.run(threads, tasks, body, context);
    }
    for (int64_t task = 0; task < tasks; task++) body(context, task, 0);
}

}  // namespace team
