//! meshctl and the original, whose program `WEAVER` names, in one mesh:
//!
//! ```sh
//! WEAVER=/path/to/weaver cargo test -p tests --test interop
//! ```
//!
//! The same cases as in `netns_*`, with either side swapped. Without `WEAVER` each test says that it
//! is skipped.

use tests::cases::addresses::{births, claims, departures, draws, kills, quarrels};
use tests::cases::restarts::End;
use tests::cases::{
    PASSWORD, links, meshes, migration, names, paths, queries, refusals, restarts, storms, traffic,
};
use tests::node::Kind::{Meshctl as M, Weaver as W};
use tests::{number_from, seed, with_weaver};

/// One test per line.
macro_rules! cases {
    ($($name:ident => $case:expr;)*) => {
        $(#[test] fn $name() { with_weaver(|| $case); })*
    };
}

// The original alone: when one of these fails, it is the laboratory that is broken.
mod laboratory {
    use super::*;

    cases! {
        full_mesh => meshes::full([W; 4], PASSWORD);
        chain => meshes::chain([W; 3], PASSWORD);
        dial => links::dial(W, W, None, 2);
        underlay => paths::underlay([W; 2], PASSWORD, 1400);
        wrong_password => refusals::wrong_password([W; 2]);
        crash_and_return => restarts::restart([W; 3], PASSWORD, End::Crash);
    }
}

mod mesh {
    use super::*;

    cases! {
        two_and_two_plain => meshes::full([W, M, W, M], None);
        two_and_two_encrypted => meshes::full([W, M, W, M], PASSWORD);
        ours_first_plain => meshes::full([M, W, M, W], None);
        ours_first_encrypted => meshes::full([M, W, M, W], PASSWORD);
        we_relay_plain => meshes::chain([W, M, W], None);
        we_relay_encrypted => meshes::chain([W, M, W], PASSWORD);
        they_relay_plain => meshes::chain([M, W, M], None);
        they_relay_encrypted => meshes::chain([M, W, M], PASSWORD);
        one_at_either_end => meshes::chain([W, W, M], PASSWORD);
        from_shuttle_to_sleeve_plain => meshes::chain([M, M, W], None);
        from_shuttle_to_sleeve_encrypted => meshes::chain([M, M, W], PASSWORD);
        we_relay_twice => meshes::long_chain([W, M, M, W], PASSWORD);
        alternating_relays => meshes::long_chain([M, W, M, W], PASSWORD);
        detour_through_us => meshes::detour([W, M, W], PASSWORD);
        container_moves_to_us => meshes::moving_container([W, M, M], &[1, 2, 3], PASSWORD);
        container_moves_among_us => meshes::moving_container([W, M, M], &[2, 3, 2], None);
        detour_through_them => meshes::detour([M, W, M], PASSWORD);
    }
}

mod offloads {
    use super::*;

    cases! {
        of_ours_first_encrypted => traffic::beside([M, W], PASSWORD, seed(1));
        of_ours_first_plain => traffic::beside([M, W], None, seed(2));
        of_ours_second_encrypted => traffic::beside([W, M], PASSWORD, seed(3));
        of_ours_second_plain => traffic::beside([W, M], None, seed(4));
    }
}

mod link {
    use super::*;

    cases! {
        we_dial_plain_v2 => links::dial(M, W, None, 2);
        we_dial_plain_v1 => links::dial(M, W, None, 1);
        we_dial_encrypted_v2 => links::dial(M, W, PASSWORD, 2);
        we_dial_encrypted_v1 => links::dial(M, W, PASSWORD, 1);
        they_dial_plain_v2 => links::dial(W, M, None, 2);
        they_dial_plain_v1 => links::dial(W, M, None, 1);
        they_dial_encrypted_v2 => links::dial(W, M, PASSWORD, 2);
        they_dial_encrypted_v1 => links::dial(W, M, PASSWORD, 1);
        both_dial => links::both_dial([M, W], PASSWORD);
        trusted_by_both_they_dial => links::trusted([M, W], true);
        trusted_by_both_we_dial => links::trusted([W, M], true);
        trusted_by_us => links::trusted([M, W], false);
        trusted_by_them => links::trusted([W, M], false);
    }
}

mod path {
    use super::*;

    cases! {
        underlay_1500_plain => paths::underlay([M, W], None, 1500);
        underlay_1500_encrypted => paths::underlay([M, W], PASSWORD, 1500);
        underlay_1400_plain => paths::underlay([W, M], None, 1400);
        underlay_1400_encrypted => paths::underlay([W, M], PASSWORD, 1400);
        underlay_9000_plain => paths::underlay([M, W], None, 9000);
        underlay_9000_encrypted => paths::underlay([W, M], PASSWORD, 9000);
        narrowing => paths::narrowing([M, W], PASSWORD);
        rough_underlay => storms::rough([M, W, M], PASSWORD, seed(3));
        black_hole_plain => storms::black_hole([W, M], None);
        black_hole_encrypted => storms::black_hole([M, W], PASSWORD);
        no_udp_at_first => storms::no_udp([M, W], PASSWORD);
        no_udp_any_more => storms::udp_lost([M, M, W], PASSWORD);
    }
}

mod life {
    use super::*;

    cases! {
        wrong_password => refusals::wrong_password([M, W]);
        password_on_us_only => refusals::missing_password([M, W]);
        password_on_them_only => refusals::missing_password([W, M]);
        they_insist_on_v2 => refusals::wrong_version([W, M]);
        shared_name_at_them => refusals::shared_name([M, W, W]);
        shared_name_at_us => refusals::shared_name([M, W, M]);
        namesakes_we_dial => refusals::namesakes([W, M]);
        namesakes_they_dial => refusals::namesakes([M, W]);
        our_connection_limit => refusals::connection_limit([W, W, M]);
        their_connection_limit => refusals::connection_limit([M, M, W]);
        weaver_crashes_and_returns => restarts::restart([M, W, W], PASSWORD, End::Crash);
        weaver_stops_and_returns => restarts::restart([W, M, W], None, End::Stop);
        meshctl_crashes_and_returns => restarts::restart([M, W, M], PASSWORD, End::Crash);
        meshctl_stops_and_returns => restarts::restart([W, W, M], None, End::Stop);
        weaver_lost_and_back => restarts::loss([M, W, W], PASSWORD);
        meshctl_lost_and_back => restarts::loss([W, M, M], PASSWORD);
        turmoil => restarts::turmoil([M, W, M, W], PASSWORD, seed(2), 20);
        migration => restarts::migration(PASSWORD);
    }
}

mod migration_in_place {
    use super::*;

    cases! {
        beside_the_original => migration::there_and_back(W, false);
        beside_ours => migration::there_and_back(M, false);
        over_a_reboot => migration::there_and_back(W, true);
    }
}

mod addresses {
    use super::*;

    cases! {
        one_of_them_by_consensus => births::consensus([M, W, M]);
        two_of_them_by_consensus => births::consensus([W, M, W]);
        they_wait_for_us => births::consensus([W, M, M]);
        older_flag => births::older_flag([M, W, M]);
        one_of_them_by_seed => births::seeds([M, W, M]);
        two_of_them_by_seed => births::seeds([W, M, W]);
        we_are_donors_of_them => births::seeds([M, M, W]);
        we_observe => births::observer([W, W, M]);
        we_observe_a_mixture => births::observer([M, W, M]);
        they_observe => births::observer([M, M, W]);
        they_observe_a_mixture => births::observer([W, M, W]);
        we_relay => births::relayed([W, M, W]);
        they_relay => births::relayed([M, W, M]);
        our_range_is_masked => births::masked([M, W]);

        we_drain_them_then_they_us => draws::drained([M, W]);
        they_drain_us_then_we_them => draws::drained([W, M]);
        we_are_cut_off => draws::parted([W, M, M]);
        they_are_cut_off => draws::parted([M, W, W]);

        we_claim_what_is_theirs => claims::foreign([M, W]);
        they_claim_what_is_ours => claims::foreign([W, M]);
        we_claim_of_their_dead => claims::of_the_dead([M, W]);
        we_claim_before_birth => claims::before_birth([M, W]);
        they_claim_before_birth => claims::before_birth([W, M]);

        weaver_crashes => departures::restart([M, M, W], End::Crash);
        weaver_stops => departures::restart([M, W, W], End::Stop);
        meshctl_crashes => departures::restart([W, M, M], End::Crash);
        meshctl_stops => departures::restart([W, W, M], End::Stop);
        we_take_over_from_us => departures::rmpeer([M, W, M]);
        we_take_over_from_them => departures::rmpeer([M, M, W]);
        they_take_over_from_us => departures::rmpeer([W, M, M]);
        they_take_over_from_them => departures::rmpeer([W, M, W]);
        we_are_reset => departures::reset([W, W, M]);
        we_are_reset_beside_us => departures::reset([W, M, M]);
        they_are_reset => departures::reset([M, M, W]);
        they_are_reset_beside_them => departures::reset([M, W, W]);

        kills => kills::in_a_loop([M, W, M], seed(2), number_from("MESHCTL_KILLS", 20));

        different_ranges => quarrels::ranges([M, W]);
        different_seeds => quarrels::seeds([W, M]);
        they_are_content_with_less => quarrels::quorums([W, M]);
    }

    // The original alone.
    mod laboratory {
        use super::*;

        cases! {
            consensus => births::consensus([W; 3]);
            drained => draws::drained([W; 2]);
            rmpeer => departures::rmpeer([W; 3]);
            different_ranges => quarrels::ranges([W; 2]);
        }
    }
}

mod name {
    use super::*;

    cases! {
        laboratory => names::come_and_go([W; 3], None);
        come_and_go_ours_first => names::come_and_go([M, W, M], None);
        come_and_go_theirs_first => names::come_and_go([W, M, W], PASSWORD);
        weaver_crashes => names::host_ends([M, W, W], End::Crash);
        weaver_stops => names::host_ends([W, M, W], End::Stop);
        meshctl_crashes => names::host_ends([M, W, M], End::Crash);
        meshctl_stops => names::host_ends([W, W, M], End::Stop);
        weaver_returns_quickly => names::quick_return([M, W]);
        meshctl_returns_quickly => names::quick_return([W, M]);
        weaver_parted_for_a_moment => names::partition([M, W, W], false);
        meshctl_parted_for_a_moment => names::partition([W, M, M], false);
        weaver_parted_for_long => names::partition([W, M, W], true);
        meshctl_parted_for_long => names::partition([M, W, M], true);
        five_thousand => names::many([M, W], 5000);
        we_relay => names::relayed([W, M, W]);
        they_relay => names::relayed([M, W, M]);
        answers => queries::answers(W);
        upstream => queries::upstream(W);
        domain_and_ttl => queries::domain_and_ttl(W);
        our_verbs_with_their_daemon => queries::verbs(W);
        skewed_clock => queries::skewed_clock(W);
    }
}
