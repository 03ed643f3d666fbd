#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"

Test(error, keeps_message_and_returns_negative_code)
{
    struct error err;
    cr_assert_eq(error_set(&err, EINVAL, "bad %s", "size"), -EINVAL);
    cr_assert_str_eq(err.message, "bad size");
}

Test(error, may_be_unwanted)
{
    cr_assert_eq(error_set(NULL, EIO, "lost"), -EIO);
    cr_assert_eq(error_set_errno(NULL, EIO, "lost"), -EIO);
    cr_assert_eq(error_prefix(NULL, -EIO, "lost"), -EIO);
}

Test(error, appends_the_systems_text)
{
    struct error err;
    cr_assert_eq(error_set_errno(&err, ENOENT, "cannot open %s", "/x"), -ENOENT);
    cr_assert_str_eq(err.message, "cannot open /x: No such file or directory");
}

Test(error, prefixes)
{
    struct error err;
    int result = error_set(&err, EINVAL, "too small");
    cr_assert_eq(error_prefix(&err, result, "region %s", "ram"), -EINVAL);
    cr_assert_str_eq(err.message, "region ram: too small");
}

Test(error, cuts_what_does_not_fit)
{
    struct error err;
    char text[3 * ERROR_MESSAGE_SIZE];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    error_set(&err, EINVAL, "%s", text);
    cr_assert_eq(strlen(err.message), ERROR_MESSAGE_SIZE - 1);
    error_set_errno(&err, EINVAL, "%s", text);
    cr_assert_eq(strlen(err.message), ERROR_MESSAGE_SIZE - 1);
    error_prefix(&err, -1, "%s", text);
    cr_assert_eq(strlen(err.message), ERROR_MESSAGE_SIZE - 1);
}
