/*
 * Runs a fuzz target over the files of one folder, and over random inputs made from a fixed seed: the part of
 * fuzzing that fits into every test run.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RANDOM_INPUTS 2000
#define RANDOM_SIZE   1024

static int run_file(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    struct stat status;
    if (!file || fstat(fileno(file), &status) || !S_ISREG(status.st_mode)) {
        fprintf(stderr, "cannot read %s\n", path);
        return -1;
    }
    size_t size = (size_t)status.st_size;
    uint8_t *data = malloc(size + 1);
    if (!data || fread(data, 1, size, file) != size) {
        fprintf(stderr, "cannot read %s\n", path);
        return -1;
    }
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    fclose(file);
    return 0;
}

static int run_folder(const char *folder, unsigned *count)
{
    DIR *entries = opendir(folder);
    if (!entries) {
        fprintf(stderr, "cannot open the corpus %s\n", folder);
        return -1;
    }
    int result = 0;
    for (struct dirent *entry; !result && (entry = readdir(entries));) {
        if (entry->d_name[0] == '.')
            continue;
        result = run_file(folder, entry->d_name);
        ++*count;
    }
    closedir(entries);
    return result;
}

static void run_random(void)
{
    struct random_data state = {0};
    char buffer[64];
    initstate_r(1, buffer, sizeof(buffer), &state);
    for (int i = 0; i < RANDOM_INPUTS; i++) {
        uint8_t data[RANDOM_SIZE];
        int32_t value;
        random_r(&state, &value);
        size_t size = (size_t)value % sizeof(data);
        for (size_t byte = 0; byte < size; byte++) {
            random_r(&state, &value);
            data[byte] = (uint8_t)(value >> 8);
        }
        LLVMFuzzerTestOneInput(data, size);
    }
}

int main(int argc, char *argv[])
{
    unsigned count = 0;
    if (argc != 2 || run_folder(argv[1], &count))
        return 1;
    if (count == 0) {
        fprintf(stderr, "the corpus %s is empty\n", argv[1]);
        return 1;
    }
    run_random();
    printf("%u files, %d random inputs\n", count, RANDOM_INPUTS);
    return 0;
}
