<?php
// Installs WordPress without a browser: php install.php DIRECTORY TITLE PASSWORD. The address is that of wp-config.php's
// moment: HTTP_HOST in the environment.
define('WP_INSTALLING', true);
$_SERVER['HTTP_HOST'] = getenv('HTTP_HOST');
$_SERVER['REQUEST_URI'] = '/';
[, $directory, $title, $password] = $argv;
chdir($directory);
require 'wp-load.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';
function wp_new_blog_notification($title, $url, $user, $password) {}
wp_install($title, 'editor', 'editor@example.org', true, '', $password);
