#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "vmm/kvm_caps.h"

/* A descriptor that is no KVM has no capability: the message must name the required ones, as far as it has
 * room, and none of the others. */
Test(kvm_caps, names_what_is_missing)
{
    struct error err = {0};
    cr_assert_eq(kvm_check_required(-1, &err), -ENOTSUP);
    cr_assert(strstr(err.message, "5.10"), "the remedy");
    cr_assert(strstr(err.message, "KVM_CAP_USER_MEMORY (guest RAM), "));
    for (size_t i = 0; i < kvm_capability_count; i++) {
        char name[128];
        snprintf(name, sizeof(name), " %s (", kvm_capabilities[i].name);
        if (!kvm_capabilities[i].required)
            cr_assert_null(strstr(err.message, name), "%s", name);
    }
}

Test(kvm_caps, each_is_there_once_and_explained)
{
    for (size_t i = 0; i < kvm_capability_count; i++) {
        cr_assert(strncmp(kvm_capabilities[i].name, "KVM_CAP_", 8) == 0);
        cr_assert(kvm_capabilities[i].purpose[0] != '\0');
        for (size_t j = 0; j < i; j++)
            cr_assert_neq(kvm_capabilities[i].number, kvm_capabilities[j].number, "%s and %s",
                          kvm_capabilities[i].name, kvm_capabilities[j].name);
    }
}
