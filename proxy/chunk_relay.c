/* Relays whole chunks of event streams from worker to client without the interpreter: one recv, a look, one send.
 * Clients are written to after all workers that are ready were read: a write that wakes its reader costs half as
 * much again, and a reader that gets one write after another stays awake.
 *
 * A stream is attached while both of its sockets are at a chunk's end. Reads that are whole, plain chunks are
 * passed on as they are. Whatever else comes (half a chunk, the answer's end, an extension, the connection's
 * end, a client that takes no more) detaches the stream and is handed back by `pump`: since only whole chunks
 * went by here, the parser and the gate that never saw them are still where they were. Nothing here decides.
 *
 * Owned by the event loop's thread: `native_relay.py` has the loop watch `fileno()` and calls `pump`.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    READ_BYTES = 64 * 1024, /* of one stream at most, before the next one's turn */
    BUFFER_BYTES = 4 * READ_BYTES, /* at most, before what was read is written */
    STREAMS = 256,          /* at most, before the event loop's turn */
    FIRST_KEPT_BYTES = 4096,
};
static const uint32_t WATCHED = EPOLLIN | EPOLLRDHUP | EPOLLET;
static const char USAGE[] = "\"usage\":";

typedef struct Stream Stream;

typedef struct {
    PyObject_HEAD
    int epoll;              /* -1: closed */
    int ready, back_count;
    struct epoll_event events[STREAMS];
    Stream *back[STREAMS];  /* detached by `pump`, to be returned by it */
    struct { Stream *stream; size_t length; } read[STREAMS]; /* lie in the buffer, one after another */
    int read_count;
    size_t read_bytes;
    char buffer[BUFFER_BYTES];
} Relay;

struct Stream {
    PyObject_HEAD
    Relay *relay;           /* NULL: detached */
    PyObject *owner;        /* NULL: detached, and returned by `pump` */
    int worker, client;     /* duplicates, so that nobody else's connection can come by these numbers */
    char keeps, whole, more;
    long long received, events;
    PyObject *usage, *rest; /* bytes */
    char *kept;
    size_t kept_bytes, kept_room;
};

/* System calls without the C library's functions, which look before and after each whether to end the thread. */
static ssize_t receive(int socket, char *data, size_t room) {
    return syscall(SYS_recvfrom, socket, data, room, MSG_DONTWAIT, NULL, NULL);
}

static ssize_t transmit(int socket, const char *data, size_t length) {
    return syscall(SYS_sendto, socket, data, length, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
}

/* Whether these are whole chunks without extensions, none of them the last. */
static int are_whole_chunks(const char *at, const char *end) {
    while (at < end) {
        size_t size = 0;
        const char *first = at;
        for (; at < end && at - first < 8; at++) {
            int digit = *at, letter = digit | 0x20;
            if (digit >= '0' && digit <= '9')
                size = size * 16 + (size_t)(digit - '0');
            else if (letter >= 'a' && letter <= 'f')
                size = size * 16 + (size_t)(letter - 'a' + 10);
            else
                break;
        }
        if (size == 0 || (size_t)(end - at) < size + 4 || memcmp(at, "\r\n", 2) || memcmp(at + 2 + size, "\r\n", 2))
            return 0;
        at += size + 4;
    }
    return 1;
}

/* As bytes.count(b"\n\n"). */
static long long count_events(const char *at, const char *end) {
    long long count = 0;
    while ((at = memchr(at, '\n', (size_t)(end - at))) != NULL && ++at < end)
        if (*at == '\n') {
            count++;
            at++;
        }
    return count;
}

static int keep(Stream *stream, const char *data, size_t length) {
    if (stream->kept_room - stream->kept_bytes < length) {
        size_t room = stream->kept_room ? stream->kept_room : FIRST_KEPT_BYTES;
        while (room - stream->kept_bytes < length)
            room *= 2;
        char *grown = PyMem_RawRealloc(stream->kept, room);
        if (grown == NULL)
            return 0;
        stream->kept = grown;
        stream->kept_room = room;
    }
    memcpy(stream->kept + stream->kept_bytes, data, length);
    stream->kept_bytes += length;
    return 1;
}

/* Takes account of bytes that are to be relayed; 0: there is no memory for it, and nothing has changed. */
static int take_note(Stream *stream, const char *data, size_t length) {
    if (memmem(data, length, USAGE, sizeof USAGE - 1) != NULL) {
        PyObject *usage = PyBytes_FromStringAndSize(data, (Py_ssize_t)length);
        if (usage == NULL) {
            PyErr_Clear();
            return 0;
        }
        Py_XSETREF(stream->usage, usage);
    }
    if (stream->keeps && !keep(stream, data, length))
        return 0;
    stream->received += (long long)length;
    stream->events += count_events(data, data + length);
    return 1;
}

static void detach(Stream *stream) {
    Relay *relay = stream->relay;
    if (relay == NULL)
        return;
    if (relay->epoll >= 0)
        epoll_ctl(relay->epoll, EPOLL_CTL_DEL, stream->worker, NULL);
    close(stream->worker);
    close(stream->client);
    stream->worker = stream->client = -1;
    stream->relay = NULL;
    Py_DECREF(relay);
}

/* Gives the stream up, and leaves to the leg what it has not relayed. */
static void hand_back(Relay *relay, Stream *stream, const char *data, size_t length) {
    stream->rest = PyBytes_FromStringAndSize(data, (Py_ssize_t)length);
    if (stream->rest == NULL)
        PyErr_Clear(); /* told as None */
    relay->back[relay->back_count++] = (Stream *)Py_NewRef((PyObject *)stream);
    detach(stream);
}

/* An edge is told once: have the kernel look again at a stream that may hold more than was read. */
static void look_again(Relay *relay, Stream *stream) {
    struct epoll_event event = {.events = WATCHED, .data.ptr = stream};
    if (epoll_ctl(relay->epoll, EPOLL_CTL_MOD, stream->worker, &event) < 0)
        hand_back(relay, stream, NULL, 0);
}

/* Reads once. A read that is shorter than its room leaves nothing, unless the end of the connection follows it. */
static void read_worker(Relay *relay, Stream *stream, uint32_t events) {
    char *data = relay->buffer + relay->read_bytes;
    ssize_t got = receive(stream->worker, data, READ_BYTES);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got < 0 && errno == EINTR)
        look_again(relay, stream);
    else if (got <= 0)
        hand_back(relay, stream, data, 0);
    else if (!are_whole_chunks(data, data + got) || !take_note(stream, data, (size_t)got))
        hand_back(relay, stream, data, (size_t)got);
    else {
        relay->read[relay->read_count].stream = stream;
        relay->read[relay->read_count++].length = (size_t)got;
        relay->read_bytes += (size_t)got;
        stream->more = got == READ_BYTES || events & ~(uint32_t)EPOLLIN;
    }
}

/* Writes what was read. A stream whose client does not take all of it is given up. */
static void write_clients(Relay *relay) {
    const char *data = relay->buffer;
    for (int i = 0; i < relay->read_count; i++) {
        Stream *stream = relay->read[i].stream;
        size_t length = relay->read[i].length;
        ssize_t sent = transmit(stream->client, data, length);
        if (sent != (ssize_t)length) {
            size_t taken = sent < 0 ? 0 : (size_t)sent;
            stream->whole = 1;
            hand_back(relay, stream, data + taken, length - taken);
        } else if (stream->more) {
            look_again(relay, stream);
        }
        data += length;
    }
    relay->read_count = 0;
    relay->read_bytes = 0;
}

/* --- Stream */

static PyObject *stream_detach(Stream *self, PyObject *unused) {
    detach(self);
    Py_CLEAR(self->owner);
    Py_RETURN_NONE;
}

static PyObject *stream_forget(Stream *self, PyObject *unused) {
    PyMem_RawFree(self->kept);
    self->kept = NULL;
    self->keeps = 0;
    self->kept_bytes = self->kept_room = 0;
    Py_RETURN_NONE;
}

static PyObject *stream_kept(Stream *self, PyObject *unused) {
    return PyBytes_FromStringAndSize(self->kept, (Py_ssize_t)self->kept_bytes);
}

static int stream_traverse(Stream *self, visitproc visit, void *arg) {
    Py_VISIT(self->owner);
    return 0;
}

static int stream_clear(Stream *self) {
    detach(self);
    Py_CLEAR(self->owner);
    return 0;
}

static void stream_dealloc(Stream *self) {
    PyObject_GC_UnTrack(self);
    stream_clear(self);
    Py_CLEAR(self->usage);
    Py_CLEAR(self->rest);
    PyMem_RawFree(self->kept);
    PyObject_GC_Del(self);
}

static PyMethodDef stream_methods[] = {
    {"detach", (PyCFunction)stream_detach, METH_NOARGS, "Relay no more, and let go of the owner."},
    {"forget", (PyCFunction)stream_forget, METH_NOARGS, "Keep no more, and free what was kept."},
    {"kept", (PyCFunction)stream_kept, METH_NOARGS, "Return what was relayed, where it is kept."},
    {NULL},
};

static PyMemberDef stream_members[] = {
    {"owner", T_OBJECT, offsetof(Stream, owner), READONLY, NULL},
    {"received", T_LONGLONG, offsetof(Stream, received), READONLY, NULL},
    {"events", T_LONGLONG, offsetof(Stream, events), READONLY, NULL},
    {"usage", T_OBJECT, offsetof(Stream, usage), READONLY, NULL},
    {"rest", T_OBJECT, offsetof(Stream, rest), READONLY, NULL},
    {"rest_is_whole", T_BOOL, offsetof(Stream, whole), READONLY, NULL},
    {NULL},
};

static PyTypeObject StreamType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "baton.proxy.chunk_relay.Stream",
    .tp_doc = "One stream that is, or was, relayed.",
    .tp_basicsize = sizeof(Stream),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_dealloc = (destructor)stream_dealloc,
    .tp_traverse = (traverseproc)stream_traverse,
    .tp_clear = (inquiry)stream_clear,
    .tp_methods = stream_methods,
    .tp_members = stream_members,
};

/* --- Relay */

static PyObject *relay_new(PyTypeObject *type, PyObject *arguments, PyObject *named) {
    Relay *self = (Relay *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self->epoll < 0) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)self;
}

static PyObject *relay_attach(Relay *self, PyObject *arguments) {
    int worker, client, keeps;
    PyObject *owner;
    if (!PyArg_ParseTuple(arguments, "iipO", &worker, &client, &keeps, &owner))
        return NULL;
    Stream *stream = PyObject_GC_New(Stream, &StreamType);
    if (stream == NULL)
        return NULL;
    memset((char *)stream + sizeof(PyObject), 0, sizeof(Stream) - sizeof(PyObject));
    stream->keeps = (char)keeps;
    stream->relay = (Relay *)Py_NewRef((PyObject *)self);
    stream->owner = Py_NewRef(owner);
    stream->worker = fcntl(worker, F_DUPFD_CLOEXEC, 0);
    stream->client = fcntl(client, F_DUPFD_CLOEXEC, 0);
    struct epoll_event event = {.events = WATCHED, .data.ptr = stream};
    if (stream->worker < 0 || stream->client < 0 ||
        epoll_ctl(self->epoll, EPOLL_CTL_ADD, stream->worker, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(stream);
        return NULL;
    }
    PyObject_GC_Track(stream);
    return (PyObject *)stream;
}

static PyObject *relay_pump(Relay *self, PyObject *unused) {
    /* Until all are relayed nothing is made that the garbage collector may run for: it could free a stream. */
    int left = self->epoll < 0 ? 0 : STREAMS - self->back_count, ready;
    while (left > 0 && (ready = epoll_wait(self->epoll, self->events, left, 0)) > 0) {
        for (int i = 0; i < ready; i++) {
            read_worker(self, self->events[i].data.ptr, self->events[i].events);
            if (BUFFER_BYTES - self->read_bytes < READ_BYTES)
                write_clients(self);
        }
        write_clients(self);
        left -= ready;
    }
    PyObject *back = PyList_New(self->back_count);
    if (back == NULL)
        return NULL; /* they are returned the next time */
    while (self->back_count) {
        self->back_count--;
        PyList_SET_ITEM(back, self->back_count, (PyObject *)self->back[self->back_count]);
    }
    return back;
}

static PyObject *relay_fileno(Relay *self, PyObject *unused) { return PyLong_FromLong(self->epoll); }

static PyObject *relay_close(Relay *self, PyObject *unused) {
    if (self->epoll >= 0)
        close(self->epoll);
    self->epoll = -1;
    Py_RETURN_NONE;
}

static void relay_dealloc(Relay *self) {
    if (self->epoll >= 0)
        close(self->epoll);
    while (self->back_count)
        Py_DECREF(self->back[--self->back_count]);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef relay_methods[] = {
    {"attach", (PyCFunction)relay_attach, METH_VARARGS,
     "Relay from a worker's socket to a client's from now on, and keep what is relayed if so told."},
    {"pump", (PyCFunction)relay_pump, METH_NOARGS,
     "Relay what has arrived. Return the streams that were detached, each with what it leaves to be done."},
    {"fileno", (PyCFunction)relay_fileno, METH_NOARGS, "Return a descriptor that is readable when `pump` has work."},
    {"close", (PyCFunction)relay_close, METH_NOARGS, "Relay no more."},
    {NULL},
};

static PyTypeObject RelayType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "baton.proxy.chunk_relay.ChunkRelay",
    .tp_doc = "The streams of one event loop that are relayed here.",
    .tp_basicsize = sizeof(Relay),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = relay_new,
    .tp_dealloc = (destructor)relay_dealloc,
    .tp_methods = relay_methods,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "baton.proxy.chunk_relay",
    .m_doc = "Relays whole chunks of event streams without the interpreter.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit_chunk_relay(void) {
    PyObject *self = PyType_Ready(&StreamType) < 0 ? NULL : PyModule_Create(&module);
    if (self != NULL &&
        (PyModule_AddType(self, &RelayType) < 0 || PyModule_AddType(self, &StreamType) < 0))
        Py_CLEAR(self);
    return self;
}
