/* Runs one call of a compiled `step`: buffers and numbers from a file, the buffers into another file.

   A buffer is three int64 (DLPack type code, bits, elements) and its data; nine of them, then the
   numbers: first row, rows that take in, that compute, that give out, tasks.
   One task only: the functions that start threads are not here. */

#include <stdio.h>
#include <stdlib.h>
#include <tvm/ffi/c_api.h>

enum { BUFFERS = 9, NUMBERS = 5 };

int __tvm_ffi_step(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result);

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i], stderr);
}

static void take(FILE *file, void *data, size_t bytes) {
  if (fread(data, 1, bytes, file) != bytes) exit(2);
}

int main(int count, char **names) {
  FILE *in = count == 3 ? fopen(names[1], "rb") : NULL;
  if (!in) return 2;
  static DLTensor tensors[BUFFERS];
  static int64_t sizes[BUFFERS];
  TVMFFIAny arguments[BUFFERS + NUMBERS] = {0}, result = {0};
  for (int i = 0; i < BUFFERS; ++i) {
    int64_t head[3];
    take(in, head, sizeof head);
    sizes[i] = head[2];
    tensors[i].ndim = 1;
    tensors[i].shape = &sizes[i];
    tensors[i].device.device_type = kDLCPU;
    tensors[i].dtype = (DLDataType){(uint8_t)head[0], (uint8_t)head[1], 1};
    size_t bytes = head[2] * head[1] / 8;
    tensors[i].data = aligned_alloc(64, (bytes / 64 + 2) * 64); /* and a vector more, which may be read */
    take(in, tensors[i].data, bytes);
    arguments[i].type_index = kTVMFFIDLTensorPtr;
    arguments[i].v_ptr = &tensors[i];
  }
  for (int i = 0; i < NUMBERS; ++i) {
    arguments[BUFFERS + i].type_index = kTVMFFIInt;
    take(in, &arguments[BUFFERS + i].v_int64, sizeof(int64_t));
  }
  if (__tvm_ffi_step(NULL, arguments, BUFFERS + NUMBERS, &result)) return 1;
  FILE *out = fopen(names[2], "wb");
  if (!out) return 2;
  for (int i = 0; i < BUFFERS; ++i) fwrite(tensors[i].data, tensors[i].dtype.bits / 8, sizes[i], out);
  return fclose(out) ? 2 : 0;
}
