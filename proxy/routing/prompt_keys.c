/* Hashes a prompt chunk by chunk, as `prefix_index.py` has the package xxhash do, in a third of the time:
 * no chunk is copied, and none is an object. The hash is XXH3 with 64 bits for more than 240 bytes, of which each
 * chunk's is the next one's seed. Processors without AVX2, and short chunks, are left to the package.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>

enum {
    STRIPE_BYTES = 64,
    SECRET_BYTES = 192,
    STRIPES = (SECRET_BYTES - STRIPE_BYTES) / 8, /* of a block, after which the sums are stirred */
    BLOCK_BYTES = STRIPES * STRIPE_BYTES,
    LANES = 8,
    SHORTEST_BYTES = 241, /* below, the hash is another one */
};

static const uint64_t PRIME_32_1 = 0x9E3779B1, PRIME_32_2 = 0x85EBCA77, PRIME_32_3 = 0xC2B2AE3D;
static const uint64_t PRIME_64_1 = 0x9E3779B185EBCA87, PRIME_64_2 = 0xC2B2AE3D27D4EB4F,
                      PRIME_64_3 = 0x165667B19E3779F9, PRIME_64_4 = 0x85EBCA77C2B2AE63,
                      PRIME_64_5 = 0x27D4EB2F165667C5, AVALANCHE = 0x165667919E3779F9;

static const uint8_t SECRET[SECRET_BYTES] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static uint64_t word(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t folded_product(uint64_t left, uint64_t right) {
    unsigned __int128 product = (unsigned __int128)left * right;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

__attribute__((target("avx2")))
static inline __m256i added(__m256i sum, const uint8_t *data, const uint8_t *secret) {
    __m256i text = _mm256_loadu_si256((const __m256i *)data);
    __m256i key = _mm256_xor_si256(text, _mm256_loadu_si256((const __m256i *)secret));
    __m256i product = _mm256_mul_epu32(key, _mm256_srli_epi64(key, 32));
    __m256i swapped = _mm256_shuffle_epi32(text, _MM_SHUFFLE(1, 0, 3, 2));
    return _mm256_add_epi64(product, _mm256_add_epi64(sum, swapped));
}

__attribute__((target("avx2")))
static inline __m256i stirred(__m256i sum, const uint8_t *secret) {
    __m256i mixed = _mm256_xor_si256(sum, _mm256_srli_epi64(sum, 47));
    mixed = _mm256_xor_si256(mixed, _mm256_loadu_si256((const __m256i *)secret));
    __m256i prime = _mm256_set1_epi32((int)PRIME_32_1);
    __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), prime);
    return _mm256_add_epi64(_mm256_mul_epu32(mixed, prime), _mm256_slli_epi64(high, 32));
}

/* XXH3_64bits_withSeed, for lengths from `SHORTEST_BYTES`. */
__attribute__((target("avx2")))
static uint64_t hash(const uint8_t *data, size_t length, uint64_t seed) {
    uint8_t secret[SECRET_BYTES];
    for (size_t at = 0; at < SECRET_BYTES; at += 16) {
        uint64_t pair[2] = {word(SECRET + at) + seed, word(SECRET + at + 8) - seed};
        memcpy(secret + at, pair, sizeof pair);
    }
    __m256i low = _mm256_set_epi64x((int64_t)PRIME_64_3, (int64_t)PRIME_64_2, (int64_t)PRIME_64_1, (int64_t)PRIME_32_3);
    __m256i high = _mm256_set_epi64x((int64_t)PRIME_32_1, (int64_t)PRIME_64_5, (int64_t)PRIME_32_2, (int64_t)PRIME_64_4);
    size_t stripes = (length - 1) / STRIPE_BYTES;
    for (size_t stripe = 0; stripe < stripes; stripe++) {
        const uint8_t *at = data + stripe * STRIPE_BYTES, *key = secret + stripe % STRIPES * 8;
        low = added(low, at, key);
        high = added(high, at + 32, key + 32);
        if (stripe % STRIPES == STRIPES - 1) {
            low = stirred(low, secret + SECRET_BYTES - STRIPE_BYTES);
            high = stirred(high, secret + SECRET_BYTES - STRIPE_BYTES + 32);
        }
    }
    low = added(low, data + length - STRIPE_BYTES, secret + SECRET_BYTES - STRIPE_BYTES - 7);
    high = added(high, data + length - STRIPE_BYTES + 32, secret + SECRET_BYTES - STRIPE_BYTES - 7 + 32);
    uint64_t sums[LANES], result = length * PRIME_64_1;
    _mm256_storeu_si256((__m256i *)sums, low);
    _mm256_storeu_si256((__m256i *)(sums + 4), high);
    for (int lane = 0; lane < LANES; lane += 2) {
        const uint8_t *key = secret + 11 + lane * 8;
        result += folded_product(sums[lane] ^ word(key), sums[lane + 1] ^ word(key + 8));
    }
    result = (result ^ result >> 37) * AVALANCHE;
    return result ^ result >> 32;
}

static int can_hash(Py_ssize_t chunk_bytes) { return chunk_bytes >= SHORTEST_BYTES && __builtin_cpu_supports("avx2"); }
#else
static int can_hash(Py_ssize_t chunk_bytes) { return 0; }
static uint64_t hash(const uint8_t *data, size_t length, uint64_t seed) { return 0; }
#endif

static PyObject *keys_of(const uint8_t *data, Py_ssize_t length, Py_ssize_t chunk_bytes, uint64_t seed) {
    Py_ssize_t count = length / chunk_bytes;
    PyObject *keys = PyList_New(count);
    for (Py_ssize_t i = 0; keys != NULL && i < count; i++) {
        seed = hash(data + i * chunk_bytes, (size_t)chunk_bytes, seed);
        PyObject *key = PyLong_FromUnsignedLongLong(seed);
        if (key == NULL)
            Py_CLEAR(keys);
        else
            PyList_SET_ITEM(keys, i, key);
    }
    return keys;
}

static PyObject *prompt_keys_hashed(PyObject *self, PyObject *arguments) {
    Py_buffer data;
    Py_ssize_t chunk_bytes;
    unsigned long long seed;
    if (!PyArg_ParseTuple(arguments, "y*nK", &data, &chunk_bytes, &seed))
        return NULL;
    PyObject *keys = can_hash(chunk_bytes) ? keys_of(data.buf, data.len, chunk_bytes, seed) : Py_NewRef(Py_None);
    PyBuffer_Release(&data);
    return keys;
}

static PyMethodDef methods[] = {
    {"hashed", prompt_keys_hashed, METH_VARARGS,
     "Return the key of each whole chunk of `data`; None where the package xxhash has to hash."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "baton.proxy.routing.prompt_keys",
    .m_doc = "Hashes prompts chunk by chunk.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_prompt_keys(void) { return PyModule_Create(&module); }
