/* Splits a JSON object at its top level, as `body.py` has msgspec do, several times as fast where strings are long.
 *
 * What it accepts msgspec accepts, and splits in the same way. Whatever is not plain (an error, half of a
 * surrogate pair, an escape in a name, deep nesting) it leaves to msgspec, which also has the words for what is
 * wrong. Like msgspec it takes every byte from 0x80 on for text: whether that is UTF-8 is the worker's to judge.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

enum {
    COPIED_BYTES = 256, /* a value from this size on stays in the body; of a shorter one a copy costs less */
    DEEPEST = 64, /* values within values; msgspec goes on where this one gives up */
};
typedef const unsigned char *Place;

static PyObject *raw_type;

#ifdef __SSE2__
static int has_avx2;

/* Skips plain text, 32 bytes at a time; what it stops at may be plain too. */
__attribute__((target("avx2")))
static Place skip_plain(Place at, Place end) {
    const __m256i quote = _mm256_set1_epi8('"'), backslash = _mm256_set1_epi8('\\'), last_control = _mm256_set1_epi8(0x1f);
    for (; end - at >= 32; at += 32) {
        __m256i text = _mm256_loadu_si256((const __m256i *)at);
        __m256i control = _mm256_cmpeq_epi8(_mm256_min_epu8(text, last_control), text);
        __m256i special = _mm256_or_si256(_mm256_cmpeq_epi8(text, quote), _mm256_cmpeq_epi8(text, backslash));
        int found = _mm256_movemask_epi8(_mm256_or_si256(special, control));
        if (found)
            return at + __builtin_ctz((unsigned)found);
    }
    return at;
}
#endif

/* Returns where a string's plain text ends: at a quote, a backslash, a control character or `end`. */
static Place skip_text(Place at, Place end) {
#ifdef __SSE2__
    if (has_avx2)
        at = skip_plain(at, end);
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), last_control = _mm_set1_epi8(0x1f);
    for (; end - at >= 16; at += 16) {
        __m128i text = _mm_loadu_si128((const __m128i *)at);
        __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(text, last_control), text);
        __m128i special = _mm_or_si128(_mm_cmpeq_epi8(text, quote), _mm_cmpeq_epi8(text, backslash));
        int found = _mm_movemask_epi8(_mm_or_si128(special, control));
        if (found)
            return at + __builtin_ctz((unsigned)found);
    }
#endif
    while (at < end && *at != '"' && *at != '\\' && *at >= 0x20)
        at++;
    return at;
}

static Place skip_space(Place at, Place end) {
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
        at++;
    return at;
}

/* These return the place behind, NULL where it is not plain. A string begins behind its quote. */

static Place skip_escape(Place at, Place end) {
    if (end - at < 6) /* the longest; more follows any, or the object does not end */
        return NULL;
    switch (at[1]) {
    case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't': return at + 2;
    case 'u': break;
    default: return NULL;
    }
    for (int i = 2; i < 6; i++)
        if (!Py_ISXDIGIT(at[i]))
            return NULL;
    int is_surrogate = (at[2] | 0x20) == 'd' && at[3] >= '8';
    return is_surrogate ? NULL : at + 6;
}

static Place skip_string(Place at, Place end) {
    while (at != NULL) {
        at = skip_text(at, end);
        if (at == end || *at < 0x20)
            return NULL;
        if (*at == '"')
            return at + 1;
        at = skip_escape(at, end);
    }
    return NULL;
}

static Place skip_digits(Place at, Place end) {
    Place first = at;
    while (at < end && Py_ISDIGIT(*at))
        at++;
    return at > first ? at : NULL;
}

static Place skip_number(Place at, Place end) {
    at += *at == '-';
    if (at < end && *at == '0')
        at++;
    else
        at = skip_digits(at, end);
    if (at != NULL && at < end && *at == '.')
        at = skip_digits(at + 1, end);
    if (at != NULL && at < end && (*at | 0x20) == 'e') {
        at++;
        at += at < end && (*at == '+' || *at == '-');
        at = skip_digits(at, end);
    }
    return at;
}

static Place skip_word(Place at, Place end, const char *word) {
    size_t length = strlen(word);
    return (size_t)(end - at) >= length && memcmp(at, word, length) == 0 ? at + length : NULL;
}

static Place skip_value(Place at, Place end, int depth);

/* The rest of an array or object, behind its bracket. */
static Place skip_items(Place at, Place end, char closing, int depth) {
    at = skip_space(at, end);
    if (at < end && *at == closing)
        return at + 1;
    for (;;) {
        if (closing == '}') {
            at = at < end && *at == '"' ? skip_string(at + 1, end) : NULL;
            at = at == NULL ? NULL : skip_space(at, end);
            if (at == NULL || at == end || *at != ':')
                return NULL;
            at = skip_space(at + 1, end);
        }
        at = skip_value(at, end, depth);
        at = at == NULL ? NULL : skip_space(at, end);
        if (at == NULL || at == end)
            return NULL;
        if (*at == closing)
            return at + 1;
        if (*at != ',')
            return NULL;
        at = skip_space(at + 1, end);
    }
}

static Place skip_value(Place at, Place end, int depth) {
    if (at == end || depth == DEEPEST)
        return NULL;
    switch (*at) {
    case '"': return skip_string(at + 1, end);
    case '{': return skip_items(at + 1, end, '}', depth + 1);
    case '[': return skip_items(at + 1, end, ']', depth + 1);
    case 't': return skip_word(at, end, "true");
    case 'f': return skip_word(at, end, "false");
    case 'n': return skip_word(at, end, "null");
    default: return skip_number(at, end);
    }
}

/* Adds one field: a name of plain ASCII, and its value. Returns 0, -1 on an error. */
static int add_field(PyObject *fields, PyObject *view, Place body, Place name, Place name_end, Place at, Place end) {
    PyObject *key = PyUnicode_DecodeASCII((const char *)name, name_end - name, NULL);
    PyObject *part = key == NULL ? NULL
        : end - at < COPIED_BYTES ? PyBytes_FromStringAndSize((const char *)at, end - at)
        : PySequence_GetSlice(view, at - body, end - body);
    PyObject *raw = part == NULL ? NULL : PyObject_CallOneArg(raw_type, part);
    int outcome = raw == NULL ? -1 : PyDict_SetItem(fields, key, raw);
    Py_XDECREF(raw);
    Py_XDECREF(part);
    Py_XDECREF(key);
    return outcome;
}

static int is_simple_name(Place at, Place end) {
    while (at < end && *at < 0x80 && *at != '\\')
        at++;
    return at == end;
}

/* Returns 1 once all fields are added, 0 where the body is not plain, -1 on an error. */
static int split(PyObject *fields, PyObject *view, Place body, Place end) {
    Place at = skip_space(body, end);
    if (at == end || *at != '{')
        return 0;
    do {
        at = skip_space(at + 1, end);
        Place name = at + 1;
        if (at == end || *at != '"' || (at = skip_string(name, end)) == NULL)
            return 0;
        Place name_end = at - 1;
        at = skip_space(at, end);
        if (at == end || *at != ':' || !is_simple_name(name, name_end))
            return 0;
        Place value = skip_space(at + 1, end);
        if ((at = skip_value(value, end, 1)) == NULL)
            return 0;
        if (add_field(fields, view, body, name, name_end, value, at) < 0)
            return -1;
        at = skip_space(at, end);
    } while (at < end && *at == ',');
    return at < end && *at == '}' && skip_space(at + 1, end) == end;
}

static PyObject *top_level_split(PyObject *self, PyObject *body) {
    if (!PyBytes_Check(body)) {
        PyErr_SetString(PyExc_TypeError, "a body is bytes");
        return NULL;
    }
    PyObject *view = PyMemoryView_FromObject(body), *fields = PyDict_New();
    Place start = (Place)PyBytes_AS_STRING(body);
    int found = view == NULL || fields == NULL ? -1 : split(fields, view, start, start + PyBytes_GET_SIZE(body));
    Py_XDECREF(view);
    if (found > 0)
        return fields;
    Py_XDECREF(fields);
    if (found < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"split", top_level_split, METH_O,
     "Return the values of a JSON object by name, as they stand in `body`; None where msgspec has to look."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "baton.proxy.top_level",
    .m_doc = "Splits long JSON objects at their top level.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_top_level(void) {
#ifdef __SSE2__
    has_avx2 = __builtin_cpu_supports("avx2");
#endif
    PyObject *msgspec = PyImport_ImportModule("msgspec");
    raw_type = msgspec == NULL ? NULL : PyObject_GetAttrString(msgspec, "Raw");
    Py_XDECREF(msgspec);
    return raw_type == NULL ? NULL : PyModule_Create(&module);
}
