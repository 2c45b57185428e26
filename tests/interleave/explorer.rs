//! Every interleaving of a few lists of steps.

/// One operation of one thread.
pub(crate) type Step<W> = fn(&mut W);

/// Runs the threads in every order of their steps, each time on a world of its own, and checks it after
/// each step. Gives the number of orders.
pub(crate) fn explore<W>(new: impl Fn() -> W, threads: &[&[Step<W>]], check: impl Fn(&W)) -> usize {
    let mut order = Vec::new();
    let mut orders = 0;
    extend(&mut order, threads, &mut |order| {
        let _current = Current(order);
        let mut world = new();
        let mut done = vec![0; threads.len()];
        check(&world);
        for &thread in order {
            threads[thread][done[thread]](&mut world);
            done[thread] += 1;
            check(&world);
        }
        orders += 1;
    });
    orders
}

/// Calls `run` with every order that begins with `order`.
fn extend<W>(order: &mut Vec<usize>, threads: &[&[Step<W>]], run: &mut impl FnMut(&[usize])) {
    let mut is_whole = true;
    for (thread, steps) in threads.iter().enumerate() {
        let done = order.iter().filter(|other| **other == thread).count();
        if done < steps.len() {
            is_whole = false;
            order.push(thread);
            extend(order, threads, run);
            order.pop();
        }
    }
    if is_whole {
        run(order);
    }
}

/// Says which order it was before the panic goes on.
struct Current<'a>(&'a [usize]);

impl Drop for Current<'_> {
    #[expect(clippy::print_stderr, reason = "a failing test tells the order")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the order of threads {:?}", self.0);
        }
    }
}

/// How many orders there are, so that no test goes through fewer than it thinks.
pub(crate) fn orders_of(lengths: &[usize]) -> usize {
    let total: usize = lengths.iter().sum();
    let factorial = |n: usize| (1..=n).product::<usize>();
    lengths
        .iter()
        .fold(factorial(total), |rest, length| rest / factorial(*length))
}
