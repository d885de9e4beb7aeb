//! Checks of stored structures at compile time.

/// Fails to compile unless a structure has this size and these fields at these offsets, in
/// bytes.
macro_rules! assert_layout {
    ($structure:ty, $size:expr, { $($field:ident: $offset:expr),+ $(,)? }) => {
        const _: () = {
            assert!(core::mem::size_of::<$structure>() == $size);
            $(assert!(core::mem::offset_of!($structure, $field) == $offset);)+
        };
    };
}

pub(in crate::format) use assert_layout;
