// Defaults of the sanitizers for all fuzz targets; ASAN_OPTIONS and UBSAN_OPTIONS override them.

// A small quarantine, because each input allocates its guest anew and what the cache has is fast.
extern "C" const char* __asan_default_options() {
    return "quarantine_size_mb=1:detect_leaks=1:malloc_context_size=2";
}

extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1:halt_on_error=1"; }
