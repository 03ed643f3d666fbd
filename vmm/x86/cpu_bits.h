/*
 * Bits of the x86 control registers. Specification: Intel SDM volume 3A, section 2.5; AMD APM volume 2,
 * section 3.1.7 (EFER).
 */
#pragma once

#define CR0_PE   (1u << 0)
#define CR0_ET   (1u << 4)
#define CR0_NE   (1u << 5)
#define CR0_NW   (1u << 29)
#define CR0_CD   (1u << 30)
#define CR0_PG   (1u << 31)

#define CR4_PSE  (1u << 4)
#define CR4_PAE  (1u << 5)
#define CR4_LA57 (1u << 12)

#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
