// Package clocks steps the wall clock of processes, and of nobody else.
//
// Shift makes time.Now of a running process differ from the machine's by a number
// of seconds, at once and for all of its threads, as if somebody had set the clock:
// the binary under test is the shipped one, and neither knows of it nor was it
// started in a special way. Processes that it starts later, and what it becomes by
// exec, have the machine's clock again.
//
// A Go program reads its clock in the vDSO, a page of code that the kernel maps
// into each process. Shift overwrites one function of this process's own copy:
//
//	mov  eax, 228        ; clock_gettime: ask the kernel, for whatever clock
//	syscall
//	test eax, eax
//	jnz  done
//	test edi, edi        ; CLOCK_REALTIME alone is shifted
//	jnz  done
//	mov  rcx, [offset]   ; 8 bytes behind the code, written anew by each Shift
//	add  [rsi], rcx      ; seconds
//	done: ret
//
// Meanwhile the process's threads are held by ptrace, which neither the process
// nor its parent notices; one that is just in this function first leaves it.
//
// What is not shifted: the kernel's own timers on CLOCK_REALTIME, times of files, and
// C code that asks for gettimeofday or time. Nothing in kahu depends on the first,
// which this package cannot show.
//
// It needs amd64, and the right to trace the process (root, or a child with the
// same user).
package clocks
