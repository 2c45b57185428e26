//! Causes: all that is said of a request that this proxy cannot serve, in one row for each cause.
//!
//! Log, metrics, `Proxy-Status` and body must say the same thing, and none of it is told from a status
//! code. The tables stand where their causes are found: in `target`, in `framing`, and for all others in
//! `answer`.

/// What is said of a cause, beside its words.
#[derive(Clone, Copy, Debug)]
pub(super) struct CauseRow {
    /// The status code of the answer.
    pub(super) status: u16,
    /// The name in metrics and logs: snake case, one each.
    pub(super) label: &'static str,
    /// An error type for `Proxy-Status`, of the registry of RFC 9209 §2.3.
    pub(super) proxy_error: &'static str,
    /// What the reader of the body can do about it.
    pub(super) advice: &'static str,
}

/// Makes an enum of causes from a table, so that none can lack a column. These are its rows: a cause, one
/// with a detail (and an example of it), and all causes of another table.
///
/// ```text
/// Cause = status, "label", "proxy_error", "what is wrong", "What to do.";
/// Cause(detail: Type = example) = status, "label", "proxy_error", "what is wrong: {detail}", "What to do.";
/// + Cause(error: Causes) = "what is wrong: {error}";
/// ```
///
/// Behind the `+` may stand a `#[cfg(..)]`.
macro_rules! causes {
    (
        $(#[$about:meta])*
        $name:ident:
        $(
            $(#[$doc:meta])*
            $cause:ident $(($detail:ident: $kind:ty = $example:expr))? =
            $status:literal, $label:literal, $proxy_error:literal, $words:literal, $advice:expr;
        )*
        $(
            + $(#[$table_if:meta])* $table:ident($error:ident: $errors:ident) = $table_words:literal;
        )*
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name {
            $(#[doc = concat!($status, ": ", $words, ".")] $(#[$doc])* $cause $(($kind))?,)*
            $(
                #[doc = concat!("A [`", stringify!($errors), "`].")]
                $(#[$table_if])*
                $table($errors),
            )*
        }

        impl $name {
            /// One of each cause, in the order of the table.
            pub fn all() -> Vec<Self> {
                [
                    vec![$(Self::$cause $(($example))?),*],
                    $($(#[$table_if])* $errors::all().into_iter().map(Self::$table).collect(),)*
                ]
                .concat()
            }

            /// What is said of it.
            pub(super) fn row(&self) -> $crate::protocol::cause::CauseRow {
                match self {
                    $(Self::$cause { .. } => $crate::protocol::cause::CauseRow {
                        status: $status,
                        label: $label,
                        proxy_error: $proxy_error,
                        advice: $advice,
                    },)*
                    $($(#[$table_if])* Self::$table(error) => error.row(),)*
                }
            }
        }

        /// The cause in a few words: for logs and the details of `Proxy-Status`.
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$cause $(($detail))? => write!(f, $words),)*
                    $($(#[$table_if])* Self::$table($error) => write!(f, $table_words),)*
                }
            }
        }

        impl std::error::Error for $name {}

        $(
            $(#[$table_if])*
            impl From<$errors> for $name {
                fn from(error: $errors) -> Self {
                    Self::$table(error)
                }
            }
        )*
    };
}

pub(super) use causes;
