/*
 * mfa.h - the C contract of universal quantized Flash Attention.
 *
 * This is the only hand-edited declaration of the interface: the Rust, Python and Swift constants are made from it or
 * checked against it. A *driver* is a library that exports exactly the functions declared here (the CPU engine in Rust,
 * the Metal bridge in Swift).
 *
 * Conventions
 *   Shapes     are written [batch, heads, rows, columns]. Strides count elements, never bytes. Offsets count bytes.
 *   Handles    (contexts, buffers) are opaque and validated on every call: NULL, a destroyed handle and a handle of the
 *              other kind are refused, not dereferenced. The bytes behind mfa_buffer_from_ptr() are the caller's promise.
 *   Errors     every operation returns an int32_t of enum mfa_status; mfa_last_error() has the message. A failed call
 *              has not changed any output buffer, unless its status is MFA_ERROR_KERNEL_EXECUTION. No call aborts, as long
 *              as allocations of a few kilobytes succeed.
 *   Threads    contexts are independent. Calls on one context from several threads are safe and run one after another.
 *   Forks      a context that the parent made is refused in the child, which makes its own; buffers are copied by the fork.
 *   Blocking   every operation has finished when it returns.
 *   Structs    that may grow begin with struct_size = sizeof(the struct) as the caller was compiled. A newer library
 *              takes the missing tail as zero; an older library refuses a longer struct whose tail is not zero.
 *              All-zero is the default for every field, unless a comment says otherwise.
 */
#ifndef MFA_H
#define MFA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define MFA_API
#else
#define MFA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this header: mfa_get_version() tells the library's. */
#define MFA_VERSION_MAJOR 0
#define MFA_VERSION_MINOR 1
#define MFA_VERSION_PATCH 0

/* ------------------------------------------------------------------------------------------------ constants ---- */

/* The result of a call. */
enum mfa_status {
  MFA_SUCCESS = 0,
  MFA_ERROR_INVALID_CONTEXT = 1,      /* the context is NULL, destroyed or not a context */
  MFA_ERROR_BUFFER_ALLOCATION = 2,    /* allocation failed */
  MFA_ERROR_INVALID_DIMENSIONS = 3,   /* a shape, a stride or their product is not legal */
  MFA_ERROR_KERNEL_EXECUTION = 4,     /* the work began and failed; outputs are undefined */
  MFA_ERROR_INVALID_ARGUMENT = 5,     /* anything else that is wrong with an argument */
  MFA_ERROR_UNSUPPORTED = 6           /* legal, but this device cannot do it */
};

/* Storage of an element. BOOL (one byte, 0 = false, anything else = true) is for masks only. INT4 is two's
 * complement, element 2i of a row in the low nibble of byte i, element 2i + 1 in the high nibble; the column stride is 1,
 * the number of columns and the other strides are even. FP64 is the slow, exact path of the CPU driver: in a call with an
 * FP64 query every other tensor of floats is FP64 too, and everything is computed in FP64; other devices refuse it with
 * MFA_ERROR_UNSUPPORTED. */
enum mfa_precision {
  MFA_PRECISION_FP32 = 0,
  MFA_PRECISION_FP16 = 1,
  MFA_PRECISION_BF16 = 2,
  MFA_PRECISION_INT4 = 4,
  MFA_PRECISION_INT8 = 8,
  MFA_PRECISION_BOOL = 16,
  MFA_PRECISION_FP64 = 64
};

/* The elements of a quantized tensor that share one scale (and zero point), and the shape of the array of scales. */
enum mfa_granularity {
  MFA_GRANULARITY_TENSOR = 0,  /* all of them: [1] */
  MFA_GRANULARITY_ROW = 1,     /* group_size columns of one row: [batch, heads, rows, ceil(columns / group_size)] */
  MFA_GRANULARITY_BLOCK = 2,   /* block_rows rows: [batch, heads, ceil(rows / block_rows), 1] */
  MFA_GRANULARITY_CHANNEL = 3  /* one column of block_rows rows: [batch, heads, ceil(rows / block_rows), columns] */
};

/* The diagonal of causal masks, windows and ALiBi: query row i is at key position i + shift. */
enum mfa_alignment {
  MFA_ALIGNMENT_TOP_LEFT = 0,     /* shift = 0 (PyTorch's is_causal) */
  MFA_ALIGNMENT_BOTTOM_RIGHT = 1  /* shift = rows of key - rows of query (decoding) */
};

/* Arithmetic of P V when V is INT8 or INT4. */
enum mfa_compute {
  MFA_COMPUTE_EXACT = 0,  /* P to 15 bits or better: relative error below 1e-4 */
  MFA_COMPUTE_FAST = 1    /* P may be rounded to 8 bits: about 1 % of the output's RMS on N(0, 1) operands */
};

/* Kinds of devices. A newer driver may have others. */
enum mfa_device_kind {
  MFA_DEVICE_CPU = 1,         /* the processor, also where it runs another device in software */
  MFA_DEVICE_GPU = 2,
  MFA_DEVICE_ACCELERATOR = 3  /* a processor that is made for such work alone */
};

/* mfa_attention_options.flags */
enum mfa_option {
  MFA_OPTION_SCALE = 1,   /* softmax_scale is given; otherwise it is 1 / sqrt(columns of query) */
  MFA_OPTION_CAUSAL = 2,  /* row i sees key positions <= i + shift */
  MFA_OPTION_WINDOW = 4   /* window_left and window_right are given */
};

/* mfa_backward_desc.flags */
enum mfa_backward_flag {
  MFA_BACKWARD_D_GIVEN = 1,  /* d_values is an input, already computed by an earlier query pass */
  MFA_BACKWARD_CLIP = 2      /* zero the gradient of elements of query, key and value that are stored at an end of the
                                quantized range: at -127 or below and at 127 (INT4: -7, 7); in a tensor with zero points (of
                                granularity TENSOR: one other than 0) at -128 and 127 (INT4: -8, 7). Of a rotated tensor,
                                these are components of the rotated gradient. */
};

/* mfa_quantize_desc.flags */
enum mfa_quantize_flag {
  MFA_QUANTIZE_ASYMMETRIC = 1,  /* zero points from min and max of each group; otherwise zero point 0 */
  MFA_QUANTIZE_SMOOTH = 2,      /* subtract the mean over rows of each column first; written to mean_buffer */
  MFA_QUANTIZE_MEAN_GIVEN = 4,  /* with SMOOTH: mean_buffer is an input (rows appended to a cache) */
  MFA_QUANTIZE_SCALE_GIVEN = 8  /* scales and zero points are inputs (calibrated quantization) */
};

/* -------------------------------------------------------------------------------------------------- structs ---- */

/* A context: a device, its worker threads or queue, and the record of forward calls that training needs. */
typedef void* mfa_context_t;
/* A block of memory that the device can use. */
typedef void* mfa_buffer_t;

/*
 * The real numbers of stored integers. With the stored integer n, real = scale * (n - zero_point); then, if
 * `rotated`, each row is multiplied by the Hadamard matrix below; then, if there is a mean_buffer, the column's mean is
 * added. Quantizing does the inverse: subtract the mean, rotate, round.
 *
 * The Hadamard matrix is orthonormal and symmetric: block diagonal, of Sylvester matrices of size b scaled by
 * 1 / sqrt(b), where b is the largest power of two that divides the number of columns. It is its own inverse.
 */
typedef struct mfa_quantization {
  uint32_t struct_size;
  int32_t granularity;            /* enum mfa_granularity */
  uint32_t block_rows;            /* BLOCK, CHANNEL: at least 1; otherwise 0 */
  uint32_t group_size;            /* ROW: 0 = the whole row, else 32 or 64; otherwise 0 */
  float scale;                    /* TENSOR without scale_buffer: finite, not 0 */
  int32_t zero_point;             /* TENSOR without scale_buffer: -128 ... 127 (INT4: -8 ... 7) */
  mfa_buffer_t scale_buffer;      /* the array of scales; NULL only for TENSOR */
  uint64_t scale_offset;          /* bytes */
  int32_t scale_precision;        /* MFA_PRECISION_FP32 or MFA_PRECISION_FP16 */
  uint32_t rotated;               /* 1: rows were rotated before rounding */
  mfa_buffer_t zero_point_buffer; /* signed integers in the shape and strides of the scales; NULL: all 0 */
  uint64_t zero_point_offset;     /* bytes */
  uint32_t zero_point_bytes;      /* 1 (int8_t) or 4 (int32_t); 0 where there is no zero_point_buffer */
  uint32_t reserved;              /* 0 */
  int64_t scale_strides[4];       /* elements, of the array of scales; all 0: contiguous, which only a tensor may say whose
                                     own elements are contiguous (a view of part of a cache gives the cache's strides) */
  mfa_buffer_t mean_buffer;       /* FP32 [batch, heads, columns], contiguous; NULL: no mean */
  uint64_t mean_offset;           /* bytes */
} mfa_quantization;

/* A view of a buffer. buffer = NULL: absent (for tensors that may be). */
typedef struct mfa_tensor {
  mfa_buffer_t buffer;
  uint64_t byte_offset;                 /* of element [0, 0, 0, 0]; a multiple of the element's size */
  int32_t precision;                    /* enum mfa_precision */
  uint32_t reserved;                    /* 0 */
  uint64_t shape[4];                    /* [batch, heads, rows, columns] */
  int64_t strides[4];                   /* elements, none negative; 0 = broadcast (inputs only; not the columns of query, key
                                           and value) */
  const mfa_quantization* quantization; /* for INT8 and INT4; otherwise NULL */
} mfa_tensor;

/*
 * The definition of attention, shared by forward and backward:
 *
 *   S = softmax_scale * Q K^T;  S = softcap * tanh(S / softcap) if softcap > 0;  S = S + bias;  P = softmax(S);  O = P V
 *
 * bias is the additive mask, or -infinity where a BOOL mask is false, plus ALiBi: -slope[head] * |i + shift - j|.
 * Sinks add exp(sink[head]) to the denominator of each row's softmax and nothing to the numerator.
 * A row without any key to attend to gives output 0, logsumexp -infinity (with a sink: the sink) and gradients 0.
 * Keys that are masked out do not reach a result, not even where they hold NaN.
 */
typedef struct mfa_attention_options {
  uint32_t struct_size;
  uint32_t flags;            /* enum mfa_option */
  float softmax_scale;       /* finite; with MFA_OPTION_SCALE, otherwise 0 */
  float softcap;             /* finite, >= 0; 0 = none */
  int32_t alignment;         /* enum mfa_alignment */
  int32_t compute;           /* enum mfa_compute */
  int64_t window_left;       /* with MFA_OPTION_WINDOW: row i sees key positions >= i + shift - window_left; */
  int64_t window_right;      /*   and <= i + shift + window_right; -1 = no limit on that side. Otherwise 0 or -1. */
  mfa_tensor mask;           /* BOOL (true = attend) or FP32, FP16, BF16, FP64 (added): [batch, heads, rows of query, rows of
                                key], each dimension full or broadcast: size 1 or stride 0. May be absent. With varlen:
                                [sequences, heads, longest query, longest key], indexed within the sequence. */
  mfa_tensor alibi_slopes;   /* FP32, FP16, BF16 or FP64 [batch or 1, heads, 1, 1]. May be absent. */
  mfa_tensor sinks;          /* FP32, FP16, BF16 or FP64 [1, heads, 1, 1]. May be absent. */
  uint32_t sequence_count;   /* varlen: number of sequences n; 0 = not varlen */
  uint32_t reserved;         /* 0 */
  mfa_buffer_t cu_seqlens_q; /* varlen: int32_t[n + 1], non-decreasing, first element 0, last at most the rows of query.
                                Batch is 1. Rows after the last sequence attend to nothing; their gradients are 0. */
  uint64_t cu_seqlens_q_offset; /* bytes */
  mfa_buffer_t cu_seqlens_k; /* varlen: the same for the rows of key and value */
  uint64_t cu_seqlens_k_offset; /* bytes */
  mfa_buffer_t seqlens_k;    /* int32_t[batch] (varlen: [n]): the number of valid rows of key and value of each sequence,
                                counted from its first; 0 ... its rows. The others are not read, and their gradients are
                                0. The shift of MFA_ALIGNMENT_BOTTOM_RIGHT is that of the sequence's own last key. NULL:
                                all. */
  uint64_t seqlens_k_offset; /* bytes */
} mfa_attention_options;

/* One forward call. Head dimensions (columns) are 1 ... 1024 (on a GPU as far as its memory reaches); heads of query are
 * a multiple of the heads of key. */
typedef struct mfa_forward_desc {
  uint32_t struct_size;
  uint32_t reserved;                    /* 0 */
  mfa_tensor query;                     /* [batch, heads, rows of query, columns]: any precision but BOOL */
  mfa_tensor key;                       /* [batch, key heads, rows of key, columns] */
  mfa_tensor value;                     /* [batch, key heads, rows of key, value columns] */
  mfa_tensor output;                    /* [batch, heads, rows of query, value columns]: FP32, FP16 or BF16; written. Like
                                           logsumexp, it shares no element with another tensor of the call. */
  mfa_tensor logsumexp;                 /* FP32 [batch, heads, rows of query, 1], natural log; written. May be absent. */
  const mfa_attention_options* options; /* NULL: all defaults */
} mfa_forward_desc;

/*
 * One backward call. Gradients are FP32, with respect to the real values of the operands (straight-through estimator:
 * rounding counts as identity), overwritten, in the operand's shape. Those that are absent are not computed. None may
 * share an element with another or with an operand. With P and S as in mfa_attention_options, L the logsumexp, and dS
 * the gradient of S before the bias is added:
 *
 *   P = exp(S - L);  dV = P^T dO;  dP = dO V^T;  D = rowsum(P * dP) = rowsum(dO * O);  dmask = P * (dP - D + dL)
 *   dS = dmask * (1 - tanh^2);  dQ = softmax_scale * dS K;  dK = softmax_scale * dS^T Q;  dsink = sum exp(sink - L) (dL - D)
 *
 * A row of which L is -infinity adds nothing to any gradient.
 */
typedef struct mfa_backward_desc {
  uint32_t struct_size;
  uint32_t flags;                       /* enum mfa_backward_flag */
  mfa_tensor query;                     /* as in forward */
  mfa_tensor key;
  mfa_tensor value;
  mfa_tensor output;                    /* O of forward. May be absent: D is then computed from P and dP. */
  mfa_tensor grad_output;               /* FP32, FP16 or BF16 [batch, heads, rows of query, value columns] */
  mfa_tensor logsumexp;                 /* FP32 [batch, heads, rows of query, 1], of forward */
  mfa_tensor d_values;                  /* FP32 [batch, heads, rows of query, 1]: D_i = sum_j P_ij dP_ij; written, or read
                                           with MFA_BACKWARD_D_GIVEN. May be absent. */
  mfa_tensor grad_query;                /* FP32. May be absent. */
  mfa_tensor grad_key;                  /* FP32. May be absent. */
  mfa_tensor grad_value;                /* FP32. May be absent. */
  mfa_tensor grad_mask;                 /* FP32, of an additive mask, in the mask's shape (summed over broadcast
                                           dimensions). May be absent. */
  mfa_tensor grad_sinks;                /* FP32 [1, heads, 1, 1]. May be absent. */
  const mfa_attention_options* options; /* as in forward */
  mfa_tensor grad_logsumexp;            /* FP32 [batch, heads, rows of query, 1]: dL, the gradient of logsumexp. May be absent:
                                           then it is 0. It is in no d_values. */
} mfa_backward_desc;

/* Merges attention over parts of the keys, each with its own softmax, into attention over all of them:
 *
 *   L = ln sum exp(L_i);  O = sum exp(L_i - L) O_i
 *
 * A part of which L_i is -infinity adds nothing, whatever its O_i holds. The result of one row depends on that row alone. */
typedef struct mfa_merge_desc {
  uint32_t struct_size;
  uint32_t count;               /* parts: at least 1 */
  const mfa_tensor* outputs;    /* count tensors [batch, heads, rows, columns]: FP32, FP16 or BF16, or all FP64 */
  const mfa_tensor* logsumexps; /* count tensors [batch, heads, rows, 1]: FP32 (of FP64 outputs: FP64) */
  mfa_tensor output;            /* FP32, FP16 or BF16 (FP64); written. It may be one of outputs, but not part of one. */
  mfa_tensor logsumexp;         /* as logsumexps; written. May be absent. It may be one of logsumexps. */
} mfa_merge_desc;

/* The gradient of a merge: with w_i = exp(L_i - L),
 *
 *   dO_i = w_i dO;  dL_i = w_i (dL + dO . (O_i - O))
 */
typedef struct mfa_merge_backward_desc {
  uint32_t struct_size;
  uint32_t count;                    /* as in the merge */
  const mfa_tensor* outputs;
  const mfa_tensor* logsumexps;
  mfa_tensor grad_output;            /* FP32, FP16 or BF16 (FP64) [batch, heads, rows, columns] */
  mfa_tensor grad_logsumexp;         /* FP32 (FP64) [batch, heads, rows, 1]. May be absent: then it is 0. */
  const mfa_tensor* grad_outputs;    /* count tensors FP32 (FP64), written. NULL: none is wanted; so for one that is absent. */
  const mfa_tensor* grad_logsumexps; /* count tensors FP32 (FP64) [batch, heads, rows, 1], written; likewise */
} mfa_merge_backward_desc;

/* The rounding error of a tensor, over all its elements. */
typedef struct mfa_quantization_error {
  double rmse;           /* sqrt(mean((dequantized - source)^2)) */
  double relative_rmse;  /* rmse / sqrt(mean(source^2)); 0 for an all-zero source */
  double max_abs;        /* max |dequantized - source| */
  double worst_row_rmse; /* the largest RMSE of a row */
} mfa_quantization_error;

/* One quantization. Symmetric: scale = max|x| / 127 (INT4: / 7), round half to even, clamp to +-127 (+-7). Asymmetric:
 * scale = (max - min) / 255 (INT4: / 15) over a range that includes 0, zero_point = round(lowest - min / scale), clamp to
 * -128 ... 127 (-8 ... 7). An all-zero group gets scale 1 and zero point 0. NaN or an infinity in the source is
 * MFA_ERROR_INVALID_ARGUMENT. */
typedef struct mfa_quantize_desc {
  uint32_t struct_size;
  uint32_t flags;                /* enum mfa_quantize_flag */
  mfa_tensor source;             /* FP32, FP16 or BF16 */
  mfa_tensor destination;        /* INT8 or INT4 in the source's shape. Its quantization says granularity and rotation
                                    and names the buffers that receive scales (required), zero points (required with
                                    ASYMMETRIC) and means (required with SMOOTH). */
  mfa_quantization_error* error; /* written; NULL: not wanted */
} mfa_quantize_desc;

/* ------------------------------------------------------------------------------------- library and devices ---- */

/* The library's version. Any pointer may be NULL. */
MFA_API int32_t mfa_get_version(uint32_t* major, uint32_t* minor, uint32_t* patch);

/* Static text for a status: "success", "invalid context", ...; "unknown status" for any other number. */
MFA_API const char* mfa_error_string(int32_t status);

/* The message for the last failure of the calling thread: what was wrong, what was found, what was expected. "" if none
 * has failed. `context` may be NULL or destroyed. Valid until the thread's next failure. */
MFA_API const char* mfa_last_error(void* context);

/* The number of devices that this driver can use now: 0 is possible. */
MFA_API int32_t mfa_device_count(uint32_t* count);

/* The name of device `index`, as a NUL-terminated string cut to `capacity` bytes; *length (may be NULL) receives its
 * full length without the NUL. name may be NULL if capacity is 0. */
MFA_API int32_t mfa_device_name(uint32_t index, char* name, size_t capacity, size_t* length);

/* The kind of device `index`: enum mfa_device_kind. */
MFA_API int32_t mfa_device_kind(uint32_t index, int32_t* kind);

/* The vendor of device `index`, "Apple" or "Intel" for example; "" if the driver does not know it. Arguments as in
 * mfa_device_name(). */
MFA_API int32_t mfa_device_vendor(uint32_t index, char* vendor, size_t capacity, size_t* length);

/* The interface by which the driver programs device `index`, in lower case: "cpu", "metal". Programs select devices by it;
 * names are for people. Arguments as in mfa_device_name(). */
MFA_API int32_t mfa_device_backend(uint32_t index, char* backend, size_t capacity, size_t* length);

/* The number by which the system knows device `index`: the registryID of its MTLDevice. MFA_ERROR_UNSUPPORTED if the system has
 * none for it, as for the processor. */
MFA_API int32_t mfa_device_registry_id(uint32_t index, uint64_t* registry_id);

/* -------------------------------------------------------------------------------------------------- context ---- */

/* A context on the driver's best device. */
MFA_API int32_t mfa_create_context(void** context);

/* A context on device `index`. */
MFA_API int32_t mfa_create_context_on(uint32_t index, void** context);

/* Destroys a context. NULL is fine. Its buffers live on until they are destroyed. */
MFA_API int32_t mfa_destroy_context(void* context);

/* Worker threads of a CPU context: 0 = the default (MFA_NUM_THREADS, else the processors this process may use). Other
 * devices accept and ignore it. */
MFA_API int32_t mfa_set_num_threads(void* context, uint32_t threads);
MFA_API int32_t mfa_get_num_threads(void* context, uint32_t* threads);

/* Seconds that the context's last attention or quantization took on the device; 0 before the first. */
MFA_API int32_t mfa_get_latency(void* context, double* seconds);

/* -------------------------------------------------------------------------------------------------- buffers ---- */

/* A new buffer of `size` bytes (0 is legal), zero-filled and aligned to 64 bytes. */
MFA_API int32_t mfa_create_buffer(void* context, uint64_t size, void** buffer);

/* Wraps the caller's memory without copying it. It must stay valid, and must not be written by others during a call
 * that uses it, until the buffer is destroyed. data may be NULL if size is 0. A GPU takes memory that begins at a page (on Apple
 * silicon 16 KiB) as it is. Of other memory every call copies what it uses to the device, and results back, which mfa_explain()
 * counts: keys and values of a cache are best in a buffer of mfa_create_buffer(). */
MFA_API int32_t mfa_buffer_from_ptr(void* context, void* data, uint64_t size, void** buffer);

#if defined(__APPLE__)
/* Wraps an id<MTLBuffer> of the context's device, which is retained, in shared or private storage. Of a private one the host
 * sees nothing: mfa_buffer_contents() refuses it, and calls refuse it with MFA_ERROR_UNSUPPORTED for what the host reads first
 * (scales, zero points, cu_seqlens, seqlens_k). Metal may be told not to track its use. What other queues have submitted on it
 * must have completed before a call begins, which waits for its own work alone: PyTorch's programs call
 * torch.mps.synchronize() first. */
MFA_API int32_t mfa_buffer_from_mtl(void* context, void* mtl_buffer, void** buffer);
#endif

/* The address of the buffer's bytes, for reading and writing by the host between calls. */
MFA_API int32_t mfa_buffer_contents(void* buffer, void** contents);

/* The size in bytes. */
MFA_API int32_t mfa_buffer_size(void* buffer, uint64_t* size);

/* Destroys a buffer, and the forward records that name it. NULL is fine. Work that still uses it keeps it alive. */
MFA_API int32_t mfa_destroy_buffer(void* buffer);

/* --------------------------------------------------------------------------------------------- quantization ---- */

/* Rounds a tensor to INT8 or INT4, in one pass over memory per statistic. */
MFA_API int32_t mfa_quantize(void* context, const mfa_quantize_desc* desc);

/* Writes the real values of `source` (INT8 or INT4) to `destination` (FP32, FP16 or BF16) of the same shape. */
MFA_API int32_t mfa_dequantize(void* context, const mfa_tensor* source, const mfa_tensor* destination);

/* ---------------------------------------------------------------------------------------- the general calls ---- */

MFA_API int32_t mfa_forward(void* context, const mfa_forward_desc* desc);
MFA_API int32_t mfa_backward(void* context, const mfa_backward_desc* desc);
MFA_API int32_t mfa_merge(void* context, const mfa_merge_desc* desc);
MFA_API int32_t mfa_merge_backward(void* context, const mfa_merge_backward_desc* desc);

/* Bytes that a call would allocate beside its outputs, at most. Exactly one of forward and backward is not NULL. Here and in
 * mfa_explain() tensors need no memory: a tensor without a buffer is absent only if its shape is zero. */
MFA_API int32_t mfa_workspace_size(void* context, const mfa_forward_desc* forward, const mfa_backward_desc* backward,
                                   uint64_t* bytes);

/* The plan of a call and the reason for it, as text of `key: value` lines; arguments as in mfa_device_name() and
 * mfa_workspace_size(). The call is validated but not run. */
MFA_API int32_t mfa_explain(void* context, const mfa_forward_desc* forward, const mfa_backward_desc* backward, char* text,
                            size_t capacity, size_t* length);

/* ------------------------------------------------------------------------------------- the fixed signatures ---- */

/*
 * Thin entries over the general calls. Arguments named *_ptr are buffers. Tensors are contiguous
 * [batch, num_heads, seq_len, head_dim]; transpose_x says that each head's matrix is stored [head_dim, seq_len] instead
 * (not for INT4). causal is top-left. Output, logsumexp, d_values and gradients are FP32.
 */

/* FP32, FP16 and BF16 operands. INT8 or INT4 is MFA_ERROR_INVALID_ARGUMENT here: there are no scales. */
MFA_API int32_t mfa_attention_forward(
    void* context, void* query_ptr, void* key_ptr, void* value_ptr, void* output_ptr, uint32_t batch_size,
    uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim, float softmax_scale, bool causal,
    int32_t q_precision, int32_t k_precision, int32_t v_precision, bool transpose_q, bool transpose_k, bool transpose_v,
    bool transpose_o);

/* Operands of any precision, one scale and zero point per quantized operand (ignored for the others). logsumexp_ptr may
 * be NULL. The context keeps a record of the call per (query, key, value), which the two backward entries use. */
MFA_API int32_t mfa_attention_forward_quantized(
    void* context, void* query_ptr, void* key_ptr, void* value_ptr, void* output_ptr, void* logsumexp_ptr,
    uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
    float softmax_scale, bool causal, int32_t q_precision, int32_t k_precision, int32_t v_precision, float q_scale,
    int32_t q_zero_point, float k_scale, int32_t k_zero_point, float v_scale, int32_t v_zero_point, bool transpose_q,
    bool transpose_k, bool transpose_v, bool transpose_o);

/* Query pass: writes grad_query_ptr and d_values_ptr. Precisions, scales, causal and transposes come from the record of
 * mfa_attention_forward_quantized() on the same three buffers; without one: MFA_ERROR_INVALID_ARGUMENT. So are dimensions,
 * or scales of quantized operands, other than the recorded ones. grad_output is stored as output was, gradients as
 * their operands are. */
MFA_API int32_t mfa_attention_backward_query_quantized(
    void* context, void* query_ptr, void* key_ptr, void* value_ptr, void* grad_output_ptr, void* logsumexp_ptr,
    void* grad_query_ptr, void* d_values_ptr, uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv,
    uint32_t num_heads, uint16_t head_dim, float q_scale, int32_t q_zero_point);

/* Key/value pass: reads d_values_ptr, writes grad_key_ptr and grad_value_ptr. */
MFA_API int32_t mfa_attention_backward_kv_quantized(
    void* context, void* query_ptr, void* key_ptr, void* value_ptr, void* grad_output_ptr, void* logsumexp_ptr,
    void* d_values_ptr, void* grad_key_ptr, void* grad_value_ptr, uint32_t batch_size, uint32_t seq_len_q,
    uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim, float q_scale, int32_t q_zero_point, float k_scale,
    int32_t k_zero_point, float v_scale, int32_t v_zero_point);

#ifdef __cplusplus
}
#endif

#endif /* MFA_H */
