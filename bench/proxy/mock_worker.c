/* Mock prefill and decode workers, cheap enough not to be what is measured: one thread, one epoll.
 *
 *     mock_worker PREFILLS DECODES
 *
 * Listens on PREFILLS + DECODES free ports of 127.0.0.1, prints them as one JSON line, and serves until its
 * standard input ends. A prefill port answers at once with `kv_transfer_params`, or, to a request of the
 * bootstrap protocol that streams, with one event. A decode port streams `chunks` events, `interval_us` apart;
 * with interval 0 they go out back to back, one send each. Every event carries the time it was sent, in
 * nanoseconds of CLOCK_MONOTONIC, as the digits of its id: the load generator reads them.
 *
 * Around that, what routers ask of workers: /health, /ready, /v1/models, /kv/peers, /abort/ID.
 * `POST /mock/plan?chunks=N&interval_us=N` on any port sets what all decode ports do from then on; spaced
 * streams under way end once they have `chunks` events.
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

enum { MAX_PORTS = 64, HEAD_WINDOW = 512, TAIL_WINDOW = 2048, BYTES_PER_BLOCK = 256 };

typedef enum { PREFILL, DECODE, CONTROL } Kind;

typedef struct Conn {
    int fd;
    Kind kind;
    int listening;
    int port;
    char *in; /* what has arrived of one request */
    size_t in_len, in_cap;
    char *out; /* what the socket would not take yet */
    size_t out_len, out_cap;
    long chunks_sent;
    long long due_ns;
    struct Conn *prev, *next; /* among the streams that wait for their time */
    int waiting, dead;
} Conn;

static int epoll_fd;
static long plan_chunks = 1, plan_interval_us = 0;
static Conn *graves; /* freed when no event of the round can name them */
static Conn *first_waiting, *last_waiting; /* intervals are equal, so arrival order is order of time */

static char event[512]; /* one framed event, with the place of its stamp */
static size_t event_len, stamp_at;
static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\nServer: mock\r\nContent-Type: text/event-stream\r\n"
                                  "Transfer-Encoding: chunked\r\n\r\n";
static char ending[512]; /* usage, [DONE] and the last chunk */
static size_t ending_len;

static void build_events(void) {
    char data[400];
    int length = snprintf(data, sizeof data,
                          "data: {\"id\":\"" STAMP_MARK "%0*d\",\"object\":\"chat.completion.chunk\","
                          "\"created\":1700000000,\"model\":\"mock\",\"choices\":[{\"index\":0,"
                          "\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
                          STAMP_DIGITS, 0);
    event_len = (size_t)snprintf(event, sizeof event, "%x\r\n%s\r\n", length, data);
    stamp_at = (size_t)(strstr(event, STAMP_MARK) - event) + strlen(STAMP_MARK);
    length = snprintf(data, sizeof data,
                      "data: {\"id\":\"usage\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
                      "\"model\":\"mock\",\"choices\":[],\"usage\":{\"prompt_tokens\":64,"
                      "\"completion_tokens\":64,\"total_tokens\":128}}\n\ndata: [DONE]\n\n");
    ending_len = (size_t)snprintf(ending, sizeof ending, "%x\r\n%s\r\n0\r\n\r\n", length, data);
}

static void stop_waiting(Conn *conn) {
    if (!conn->waiting)
        return;
    *(conn->prev ? &conn->prev->next : &first_waiting) = conn->next;
    *(conn->next ? &conn->next->prev : &last_waiting) = conn->prev;
    conn->prev = conn->next = NULL;
    conn->waiting = 0;
}

static void wait_until(Conn *conn, long long due_ns) {
    conn->due_ns = due_ns;
    conn->prev = last_waiting;
    *(last_waiting ? &last_waiting->next : &first_waiting) = conn;
    last_waiting = conn;
    conn->waiting = 1;
}

static void end(Conn *conn) {
    if (conn->dead)
        return;
    stop_waiting(conn);
    close(conn->fd);
    conn->dead = 1;
    conn->next = graves;
    graves = conn;
}

static void say(Conn *conn, const char *data, size_t length) {
    if (conn->dead)
        return;
    ssize_t sent = conn->out_len ? 0 : send(conn->fd, data, length, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end(conn);
        return;
    }
    if (sent < 0)
        sent = 0;
    if ((size_t)sent == length)
        return;
    if (!conn->out_len)
        watch(epoll_fd, conn->fd, conn, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    size_t rest = length - (size_t)sent;
    conn->out = grown(conn->out, &conn->out_cap, conn->out_len + rest, 1);
    memcpy(conn->out + conn->out_len, data + sent, rest);
    conn->out_len += rest;
}

static void flush(Conn *conn) {
    ssize_t sent = send(conn->fd, conn->out, conn->out_len, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end(conn);
        return;
    }
    if (sent < 0)
        return;
    conn->out_len -= (size_t)sent;
    memmove(conn->out, conn->out + sent, conn->out_len);
    if (!conn->out_len)
        watch(epoll_fd, conn->fd, conn, EPOLLIN, EPOLL_CTL_MOD);
}

static void answer_json(Conn *conn, const char *json) {
    static char *whole;
    static size_t cap;
    size_t length = strlen(json);
    whole = grown(whole, &cap, length + 256, 1);
    int total = sprintf(whole,
                        "HTTP/1.1 200 OK\r\nServer: mock\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\n\r\n%s",
                        length, json);
    say(conn, whole, (size_t)total);
}

/* --- streams */

static const char *stamped(void) {
    long long stamp = now_ns();
    for (int digit = STAMP_DIGITS - 1; digit >= 0; digit--, stamp /= 10)
        event[stamp_at + (size_t)digit] = (char)('0' + stamp % 10);
    return event;
}

static void send_event(Conn *conn) {
    if (conn->chunks_sent == 0) {
        char both[sizeof STREAM_HEAD + sizeof event];
        memcpy(both, STREAM_HEAD, sizeof STREAM_HEAD - 1);
        memcpy(both + sizeof STREAM_HEAD - 1, stamped(), event_len);
        say(conn, both, sizeof STREAM_HEAD - 1 + event_len);
    } else {
        say(conn, stamped(), event_len);
    }
    conn->chunks_sent++;
}

static void stream(Conn *conn, long chunks, long interval_us) {
    conn->chunks_sent = 0;
    if (interval_us) {
        wait_until(conn, now_ns() + interval_us * 1000);
        return;
    }
    for (long number = 0; number < chunks; number++)
        send_event(conn);
    say(conn, ending, ending_len);
}

static void send_what_is_due(void) {
    long long now = now_ns();
    while (first_waiting && first_waiting->due_ns <= now) {
        Conn *conn = first_waiting;
        long long due = conn->due_ns + plan_interval_us * 1000;
        stop_waiting(conn);
        send_event(conn);
        if (conn->chunks_sent >= plan_chunks)
            say(conn, ending, ending_len);
        else if (!conn->dead)
            wait_until(conn, due > now ? due : now + plan_interval_us * 1000);
    }
}

static int until_next_ms(void) {
    if (!first_waiting)
        return -1;
    long long left_ns = first_waiting->due_ns - now_ns();
    return left_ns <= 0 ? 0 : (int)((left_ns + 999999) / 1000000);
}

/* --- requests */

/* Whether `key` stands near either end of a body: routers put short fields there, the prompt is long. */
static int near_ends(const char *body, size_t length, const char *key) {
    size_t window = length < HEAD_WINDOW ? length : HEAD_WINDOW;
    if (memmem(body, window, key, strlen(key)))
        return 1;
    window = length < TAIL_WINDOW ? length : TAIL_WINDOW;
    return memmem(body + length - window, window, key, strlen(key)) != NULL;
}

static void answer_prefill(Conn *conn, size_t body_len) {
    static char *json;
    static size_t cap;
    size_t blocks = body_len / BYTES_PER_BLOCK + 1, tokens = body_len / 4 + 1;
    json = grown(json, &cap, 1024 + blocks * 8, 1);
    int at = sprintf(json,
                     "{\"id\":\"chatcmpl-prefill\",\"object\":\"chat.completion\",\"created\":1700000000,"
                     "\"model\":\"mock\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
                     "\"content\":\" token\"},\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":%zu,"
                     "\"completion_tokens\":1,\"total_tokens\":%zu,\"prompt_tokens_details\":"
                     "{\"cached_tokens\":0}},\"kv_transfer_params\":{\"do_remote_prefill\":true,"
                     "\"do_remote_decode\":false,\"remote_engine_id\":\"%032d\",\"remote_request_id\":"
                     "\"chatcmpl-prefill-%lld\",\"remote_host\":\"127.0.0.1\",\"remote_port\":%d,\"tp_size\":1,"
                     "\"remote_num_tokens\":%zu,\"remote_block_ids\":[[",
                     tokens, tokens + 1, conn->port, now_ns(), conn->port, tokens);
    for (size_t block = 0; block < blocks; block++)
        at += sprintf(json + at, "%s%zu", block ? "," : "", block + 1);
    strcpy(json + at, "]]}}");
    answer_json(conn, json);
}

static void complete(Conn *conn, const char *body, size_t length) {
    int streams = near_ends(body, length, "\"stream\":true") || near_ends(body, length, "\"stream\": true");
    if (conn->kind == DECODE && streams)
        stream(conn, plan_chunks, plan_interval_us);
    else if (conn->kind == PREFILL && streams)
        stream(conn, 1, 0);
    else
        answer_prefill(conn, length);
}

static void set_plan(const char *target) {
    const char *chunks = strstr(target, "chunks="), *interval = strstr(target, "interval_us=");
    plan_chunks = chunks ? atol(chunks + strlen("chunks=")) : plan_chunks;
    plan_interval_us = interval ? atol(interval + strlen("interval_us=")) : plan_interval_us;
}

static int starts(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static void answer(Conn *conn, const char *target, const char *body, size_t length) {
    char json[512];
    if (starts(target, "/v1/chat/completions ") || starts(target, "/v1/completions ")) {
        complete(conn, body, length);
        return;
    }
    if (starts(target, "/mock/plan"))
        set_plan(target);
    if (starts(target, "/v1/models"))
        snprintf(json, sizeof json, "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\","
                                    "\"max_model_len\":131072}]}");
    else if (starts(target, "/ready"))
        snprintf(json, sizeof json,
                 "{\"ready\":true,\"role\":\"%s\",\"model\":\"mock\",\"incarnation\":\"%032d\",\"kv\":{\"host\":"
                 "\"127.0.0.1\",\"port\":%d},\"peers\":[],\"max_model_len\":131072,"
                 "\"kv_tokens_capacity\":67108864,\"block_tokens\":64}",
                 conn->kind == PREFILL ? "prefill" : "decode", conn->port, conn->port);
    else if (starts(target, "/kv/peers"))
        snprintf(json, sizeof json, "{\"incarnation\":\"%032d\"}", conn->port);
    else if (starts(target, "/abort/"))
        snprintf(json, sizeof json, "{\"aborted\":0,\"released\":0}");
    else if (starts(target, "/health") || starts(target, "/mock/plan"))
        snprintf(json, sizeof json, "{}");
    else {
        static const char unknown[] = "HTTP/1.1 404 Not Found\r\nServer: mock\r\nContent-Length: 0\r\n\r\n";
        say(conn, unknown, sizeof unknown - 1);
        return;
    }
    answer_json(conn, json);
}

static size_t content_length(const char *head) {
    const char *line = strcasestr(head, "\r\ncontent-length:");
    if (!line && strcasestr(head, "\r\ntransfer-encoding:")) {
        fputs("mock_worker: a request body came in chunks, which this mock does not read\n", stderr);
        exit(1);
    }
    return line ? (size_t)atol(line + strlen("\r\ncontent-length:")) : 0;
}

/* Answer the request at the front of the buffer if all of it is there. */
static int take_request(Conn *conn) {
    char *blank = memmem(conn->in, conn->in_len, "\r\n\r\n", 4);
    if (!blank)
        return 0;
    *blank = '\0';
    size_t head_len = (size_t)(blank - conn->in) + 4;
    size_t length = content_length(conn->in);
    if (conn->in_len < head_len + length) {
        *blank = '\r';
        conn->in = grown(conn->in, &conn->in_cap, head_len + length + 1, 1);
        return 0;
    }
    char *target = strchr(conn->in, ' ');
    if (!target) {
        end(conn);
        return 0;
    }
    answer(conn, target + 1, conn->in + head_len, length);
    conn->in_len -= head_len + length;
    memmove(conn->in, conn->in + head_len + length, conn->in_len);
    return 1;
}

static void take_bytes(Conn *conn) {
    conn->in = grown(conn->in, &conn->in_cap, conn->in_len + 4096, 1);
    ssize_t got = recv(conn->fd, conn->in + conn->in_len, conn->in_cap - conn->in_len, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            end(conn);
        return;
    }
    conn->in_len += (size_t)got;
    while (!conn->dead && conn->in_len && take_request(conn))
        ;
}

/* --- connections */

static void take_connections(Conn *door) {
    for (;;) {
        int fd = accept4(door->fd, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0)
            return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Conn *conn = calloc(1, sizeof *conn);
        if (!conn)
            die("calloc");
        conn->fd = fd;
        conn->kind = door->kind;
        conn->port = door->port;
        watch(epoll_fd, fd, conn, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static int listen_as(Kind kind) {
    Conn *door = calloc(1, sizeof *door);
    if (!door)
        die("calloc");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    door->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (door->fd < 0 || bind(door->fd, (struct sockaddr *)&address, length) || listen(door->fd, 8192) ||
        getsockname(door->fd, (struct sockaddr *)&address, &length))
        die("listen");
    door->kind = kind;
    door->listening = 1;
    door->port = ntohs(address.sin_port);
    watch(epoll_fd, door->fd, door, EPOLLIN, EPOLL_CTL_ADD);
    return door->port;
}

static void print_ports(const char *name, Kind kind, int count, const char *after) {
    printf("\"%s\": [", name);
    for (int number = 0; number < count; number++)
        printf("%s%d", number ? ", " : "", listen_as(kind));
    printf("]%s", after);
}

static void handle(const struct epoll_event *occurred) {
    Conn *conn = occurred->data.ptr;
    if (conn->kind == CONTROL)
        exit(0); /* whoever started this is gone */
    if (conn->listening) {
        take_connections(conn);
        return;
    }
    if (!conn->dead && occurred->events & EPOLLOUT)
        flush(conn);
    if (!conn->dead && occurred->events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        take_bytes(conn);
}

static void bury(void) {
    while (graves) {
        Conn *conn = graves;
        graves = conn->next;
        free(conn->in);
        free(conn->out);
        free(conn);
    }
}

int main(int argc, char **argv) {
    int prefills = argc == 3 ? atoi(argv[1]) : 0, decodes = argc == 3 ? atoi(argv[2]) : 0;
    if (decodes < 1 || prefills < 0 || prefills + decodes > MAX_PORTS) {
        fprintf(stderr, "usage: mock_worker PREFILLS DECODES, at most %d together\n", MAX_PORTS);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(0);
    build_events();
    static Conn parent = {.kind = CONTROL};
    watch(epoll_fd, STDIN_FILENO, &parent, EPOLLIN, EPOLL_CTL_ADD);
    putchar('{');
    print_ports("prefill", PREFILL, prefills, ", ");
    print_ports("decode", DECODE, decodes, "}\n");
    fflush(stdout);
    for (;;) {
        struct epoll_event occurred[256];
        int count = epoll_wait(epoll_fd, occurred, 256, until_next_ms());
        for (int number = 0; number < count; number++)
            handle(&occurred[number]);
        send_what_is_due();
        bury();
    }
}
