/* Load generator: keep-alive connections that each send one streamed request after another. One thread.
 *
 *     load PORT PATH BODY_FILE CONNECTIONS SECONDS [--once] [--ramp-ms N]
 *
 * The body file holds two runs of sixteen letters, A and B: the first is replaced by one of 16 numbers, the
 * second by the number of the request, so that prompts share their first part with others and are distinct.
 * A connection's next request follows its last answer until SECONDS have passed; answers under way are read
 * to their end. With --once every connection sends one request, and `open` is printed once all have a byte.
 * Prints one JSON line: counts, and times in microseconds as percentiles.
 */
#define _GNU_SOURCE
#include "common.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RECV_BYTES = 256 * 1024, TAIL_BYTES = 7, PLACE_DIGITS = 16, GROUPS = 16, GIVE_UP_S = 60 };

typedef struct {
    int fd;
    char *request; /* whole, and this connection's own: two places in it change */
    size_t sent;
    long long started_ns;
    int busy, status;
    int chunked;
    size_t body_left;       /* of an answer with a length */
    char tail[TAIL_BYTES];  /* the last bytes, across reads */
    char split[64];         /* an event's stamp may straddle two reads */
    size_t split_len;
    char head[4096];
    size_t head_len;
} Conn;

typedef struct {
    unsigned *us;
    size_t count, cap;
} Times;

static int epoll_fd, once;
static struct sockaddr_in server;
static char *request_template;
static size_t request_len, group_at, number_at;
static long long deadline_ns;
static long requests, bad, events, begun, busy_conns, next_number; /* begun: a byte came, or none will */
static long statuses[600];
static Times ttft, latency, delay;

static void add(Times *times, long long ns) {
    times->us = grown(times->us, &times->cap, times->count + 1, sizeof *times->us);
    times->us[times->count++] = ns < 0 ? 0 : (unsigned)(ns / 1000);
}

static int smaller(const void *left, const void *right) {
    unsigned a = *(const unsigned *)left, b = *(const unsigned *)right;
    return (a > b) - (a < b);
}

static void print_times(const char *name, Times *times) {
    qsort(times->us, times->count, sizeof *times->us, smaller);
    printf(", \"%s_us\": [", name);
    const double shares[] = {0.5, 0.99};
    for (int at = 0; at < 2; at++) {
        size_t rank = (size_t)((double)times->count * shares[at]);
        printf("%s%u", at ? ", " : "", times->count ? times->us[rank] : 0);
    }
    printf("]");
}

static void build_request(const char *port, const char *path, const char *body_file) {
    FILE *file = fopen(body_file, "r");
    static char body[4 * 1024 * 1024];
    size_t length = file ? fread(body, 1, sizeof body, file) : 0;
    if (!length || length == sizeof body)
        die(body_file);
    fclose(file);
    request_template = malloc(length + 512);
    int head = sprintf(request_template,
                       "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nContent-Type: application/json\r\n"
                       "Accept: text/event-stream\r\nContent-Length: %zu\r\n\r\n",
                       path, port, length);
    memcpy(request_template + head, body, length);
    request_len = (size_t)head + length;
    char *group = memmem(request_template, request_len, "AAAAAAAAAAAAAAAA", PLACE_DIGITS);
    char *number = memmem(request_template, request_len, "BBBBBBBBBBBBBBBB", PLACE_DIGITS);
    if (!group || !number) {
        fputs("load: the body has no places for numbers\n", stderr);
        exit(2);
    }
    group_at = (size_t)(group - request_template);
    number_at = (size_t)(number - request_template);
}

static void put_number(char *place, long number) {
    for (int digit = PLACE_DIGITS - 1; digit >= 0; digit--, number /= 10)
        place[digit] = (char)('0' + number % 10);
}

static void push(Conn *conn) {
    while (conn->sent < request_len) {
        ssize_t sent = send(conn->fd, conn->request + conn->sent, request_len - conn->sent,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            watch(epoll_fd, conn->fd, conn, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return;
        }
        conn->sent += (size_t)sent;
    }
}

static void ask(Conn *conn) {
    long number = next_number++;
    put_number(conn->request + group_at, number % GROUPS);
    put_number(conn->request + number_at, number);
    conn->sent = conn->head_len = conn->split_len = 0;
    memset(conn->tail, 0, TAIL_BYTES);
    conn->status = 0;
    conn->busy = 1;
    busy_conns++;
    conn->started_ns = now_ns();
    push(conn);
}

static void open_and_ask(Conn *conn) {
    conn->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (conn->fd < 0)
        die("socket");
    if (connect(conn->fd, (struct sockaddr *)&server, sizeof server)) {
        close(conn->fd);
        conn->fd = -1;
        bad++;
        begun++;
        return;
    }
    int on = 1;
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch(epoll_fd, conn->fd, conn, EPOLLIN, EPOLL_CTL_ADD);
    ask(conn);
}

static void done(Conn *conn, int whole) {
    conn->busy = 0;
    busy_conns--;
    begun += !conn->status;
    statuses[conn->status < 600 ? conn->status : 0]++;
    if (whole && conn->status == 200) {
        requests++;
        add(&latency, now_ns() - conn->started_ns);
    } else {
        bad++;
    }
    if (once || !whole || now_ns() >= deadline_ns) {
        close(conn->fd);
        conn->fd = -1;
        if (!once && now_ns() < deadline_ns)
            open_and_ask(conn);
        return;
    }
    ask(conn);
}

/* Count the events in `data` and how long each was on its way. */
static void read_stamps(const char *data, size_t length, long long now) {
    static const size_t mark = sizeof STAMP_MARK - 1;
    const char *end = data + length;
    for (const char *at = data; (at = memmem(at, (size_t)(end - at), STAMP_MARK, mark)); at += mark) {
        if (end - at < (long)(mark + STAMP_DIGITS))
            return;
        long long stamp = 0;
        for (size_t digit = 0; digit < STAMP_DIGITS; digit++)
            stamp = stamp * 10 + (at[mark + digit] - '0');
        add(&delay, now - stamp);
        events++;
    }
}

/* Like `read_stamps`, over what the last read left behind and the first bytes of this one. */
static void read_split(Conn *conn, const char *data, size_t length, long long now) {
    static const size_t mark = sizeof STAMP_MARK - 1;
    char joined[sizeof conn->split + sizeof STAMP_MARK + STAMP_DIGITS];
    size_t kept = conn->split_len, more = mark + STAMP_DIGITS - 1;
    more = more < length ? more : length;
    memcpy(joined, conn->split, kept);
    memcpy(joined + kept, data, more);
    read_stamps(joined, kept + more, now);
    size_t keep = mark + STAMP_DIGITS - 1;
    if (length >= keep) {
        memcpy(conn->split, data + length - keep, keep);
        conn->split_len = keep;
    } else {
        size_t total = kept + length, drop = total > keep ? total - keep : 0;
        memmove(conn->split, joined + drop, total - drop);
        conn->split_len = total - drop;
    }
}

static void remember_tail(Conn *conn, const char *data, size_t length) {
    if (length >= TAIL_BYTES) {
        memcpy(conn->tail, data + length - TAIL_BYTES, TAIL_BYTES);
    } else {
        memmove(conn->tail, conn->tail + length, TAIL_BYTES - length);
        memcpy(conn->tail + TAIL_BYTES - length, data, length);
    }
}

static void take_body(Conn *conn, const char *data, size_t length, long long now) {
    read_split(conn, data, length, now);
    read_stamps(data, length, now);
    if (conn->chunked) {
        remember_tail(conn, data, length);
        if (memcmp(conn->tail, "\r\n0\r\n\r\n", TAIL_BYTES) == 0)
            done(conn, 1);
    } else {
        conn->body_left -= length < conn->body_left ? length : conn->body_left;
        if (!conn->body_left)
            done(conn, 1);
    }
}

static void take_head(Conn *conn, const char *data, size_t length, long long now) {
    size_t room = sizeof conn->head - 1 - conn->head_len, taken = length < room ? length : room;
    memcpy(conn->head + conn->head_len, data, taken);
    conn->head[conn->head_len + taken] = '\0';
    char *blank = strstr(conn->head, "\r\n\r\n");
    if (!blank) {
        conn->head_len += taken;
        if (taken < length)
            done(conn, 0);
        return;
    }
    size_t rest_at = (size_t)(blank + 4 - conn->head) - conn->head_len;
    *blank = '\0';
    conn->status = atoi(conn->head + strlen("HTTP/1.1 "));
    const char *declared = strcasestr(conn->head, "\r\ncontent-length:");
    conn->chunked = !declared;
    conn->body_left = declared ? (size_t)atol(declared + strlen("\r\ncontent-length:")) : 0;
    add(&ttft, now - conn->started_ns);
    begun++;
    if (rest_at < length || (declared && !conn->body_left))
        take_body(conn, data + rest_at, length - rest_at, now);
}

static void handle(const struct epoll_event *occurred) {
    static char data[RECV_BYTES];
    Conn *conn = occurred->data.ptr;
    if (conn->fd < 0)
        return;
    if (occurred->events & EPOLLOUT) {
        watch(epoll_fd, conn->fd, conn, EPOLLIN, EPOLL_CTL_MOD);
        push(conn);
    }
    if (!(occurred->events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    ssize_t got = recv(conn->fd, data, sizeof data, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0 || !conn->busy) {
        done(conn, 0);
        return;
    }
    if (conn->status)
        take_body(conn, data, (size_t)got, now_ns());
    else
        take_head(conn, data, (size_t)got, now_ns());
}

static void report(double seconds) {
    printf("{\"requests\": %ld, \"bad\": %ld, \"events\": %ld, \"seconds\": %.6f", requests, bad, events, seconds);
    print_times("ttft", &ttft);
    print_times("latency", &latency);
    print_times("delay", &delay);
    printf(", \"statuses\": {");
    for (int status = 0, some = 0; status < 600; status++)
        if (statuses[status])
            printf("%s\"%d\": %ld", some++ ? ", " : "", status, statuses[status]);
    printf("}}\n");
}

/* Open connections over `ramp_ms`, then let them run until the last answer has ended. */
static void run(Conn *conns, int count, long ramp_ms) {
    long long began = now_ns();
    int opened = 0, told = 0;
    while (opened < count || busy_conns) {
        long long now = now_ns();
        long long due = ramp_ms ? (now - began) * count / (ramp_ms * 1000000LL) : count;
        for (; opened < count && opened <= due; opened++)
            open_and_ask(&conns[opened]);
        struct epoll_event occurred[256];
        int ready = epoll_wait(epoll_fd, occurred, 256, opened < count ? 1 : 1000);
        for (int number = 0; number < ready; number++)
            handle(&occurred[number]);
        if (once && !told && begun >= count) {
            told = 1;
            printf("open\n");
            fflush(stdout);
        }
        if (now > deadline_ns + GIVE_UP_S * 1000000000LL) {
            bad += busy_conns;
            break;
        }
    }
    report((double)(now_ns() - began) / 1e9);
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fputs("usage: load PORT PATH BODY_FILE CONNECTIONS SECONDS [--once] [--ramp-ms N]\n", stderr);
        return 2;
    }
    long ramp_ms = 0;
    for (int at = 6; at < argc; at++) {
        once |= strcmp(argv[at], "--once") == 0;
        if (strcmp(argv[at], "--ramp-ms") == 0 && at + 1 < argc)
            ramp_ms = atol(argv[++at]);
    }
    signal(SIGPIPE, SIG_IGN);
    int count = atoi(argv[4]);
    server.sin_family = AF_INET;
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.sin_port = htons((unsigned short)atoi(argv[1]));
    build_request(argv[1], argv[2], argv[3]);
    epoll_fd = epoll_create1(0);
    deadline_ns = now_ns() + (long long)(atof(argv[5]) * 1e9);
    Conn *conns = calloc((size_t)count, sizeof *conns);
    if (!conns)
        die("calloc");
    for (int at = 0; at < count; at++) {
        conns[at].request = memcpy(malloc(request_len), request_template, request_len);
        conns[at].fd = -1;
    }
    run(conns, count, ramp_ms);
    return 0;
}
